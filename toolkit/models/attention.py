"""Preparation of models for the attention masks of prefix trees, on every backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.models.families import find_family

MASK_ERRORS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)
"""The errors with which models reject the mask of a prefix tree."""

UNSLOTH_FLAGS = ("_unsloth_keep_padding_mask", "_unsloth_allow_packed_overlength")
"""Attributes of the decoder that Unsloth's fused Llama forward (CUDA) reads.

The first makes it keep a custom attention mask during training. The second stops it from cutting rows at
max_seq_length, which a tree of many rows exceeds. The names are private and can change, so a test looks for them in
Unsloth's source, and a tree is compared with padded rows before it is used.
"""


def unwrap_peft(model: Any) -> Any:
    """Return the causal language model inside a PEFT wrapper, or the model itself if it has no wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def accept_trees(model: Any, accepted: bool = True) -> None:
    """Make Unsloth's decoder accept custom masks and rows longer than max_seq_length, or reject them again."""
    # The decoders of stock transformers models accept both anyway and ignore the flags.
    for flag in UNSLOTH_FLAGS:
        setattr(unwrap_peft(model).get_decoder(), flag, accepted)


@contextmanager
def limit_sequence_length(model: Any, length: int) -> Iterator[None]:
    """Lower the length at which Unsloth's forward cuts rows, so that a check of a small tree covers large trees too."""
    decoder = unwrap_peft(model).get_decoder()
    previous_length = getattr(decoder, "max_seq_length", None)
    if previous_length is None:
        yield
        return
    decoder.max_seq_length = length
    try:
        yield
    finally:
        decoder.max_seq_length = previous_length


def find_tree_problem(config: Any) -> str | None:
    """Return the reason why a model cannot compute prefix trees, or None if none is known from its configuration.

    Models of unknown families have to pass the comparison of a tree with separate rows before trees are used.
    """
    family, config = find_family(config), config.get_text_config()
    if family is not None and family.tree_problem is not None:
        return family.tree_problem
    # Gemma's newer configurations also have "vision", which concerns only images.
    if getattr(config, "use_bidirectional_attention", None) in (True, "all") or not getattr(config, "is_causal", True):
        return "the model's tokens attend to later tokens, so rows share no prefix that could be computed once"
    other_types = sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"})
    if other_types:
        return f"layers of the type {other_types[0]} do not follow the attention mask of a prefix tree"
    return None


def sliding_window(config: Any) -> int | None:
    """Return the length of the sliding window in tokens, including the current one, or None if no layer has one."""
    return _windows(config.get_text_config()).get("sliding_attention")


def _windows(config: Any) -> dict[str, int | None]:
    """Return the sliding window of each type of attention layer, None for full attention."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if not layer_types:  # Mistral and Phi-3 have the same window in all layers
        layer_types = ["full_attention" if window is None else "sliding_attention"]
    return {name: window if name == "sliding_attention" else None for name in sorted(set(layer_types))}


def prepare_mask(
    mask: torch.Tensor, dtype: torch.dtype, config: Any, positions: torch.Tensor | None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Convert a mask to the form that models accept.

    Args:
        mask: [rows, tokens] of integers for padded rows, returned unchanged, because the model itself limits it to its
            sliding window. Or boolean [1, 1, queries, keys] for a tree, True where the key is the query itself or one
            of its ancestors.
        dtype: The data type that the model computes in.
        config: The configuration of the model.
        positions: The positions of the keys in their own sequences, [1, keys]; those of the queries are the last ones.
            None for padded rows.

    Returns:
        The mask to pass as `attention_mask`. For a tree, it has the same shape and is added to the attention scores: 0
        where attention is allowed and the lowest number of `dtype` elsewhere. If a model has layers with and without a
        sliding window and the tree is longer than it, this is a dictionary with the mask of each type of layer.
    """
    if mask.dtype != torch.bool or positions is None:
        return mask
    windows = _windows(config.get_text_config())
    visible = {name: _limit_to_window(mask, positions, window) for name, window in windows.items()}
    # A tree's mask is additive because Unsloth's forward does not support boolean masks. Layers share equal masks.
    additive = {id(allowed): _additive(allowed, dtype) for allowed in visible.values()}
    if len(additive) == 1:
        return next(iter(additive.values()))  # a tensor, because only models with several masks accept dictionaries
    return {name: additive[id(allowed)] for name, allowed in visible.items()}


def _limit_to_window(mask: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return a tree's mask with only the keys in a sliding window, or the mask itself if all keys are in it."""
    if window is None or positions.max() < window:
        return mask
    # The window is one of positions, which are depths: between a node and its ancestor there can be other branches.
    keys, queries = positions[:, None, None, :], positions[:, None, -mask.shape[2] :, None]
    return mask & (keys > queries - window)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
