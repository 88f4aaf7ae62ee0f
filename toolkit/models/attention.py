"""Preparation of models for the attention masks of prefix trees, on every backend."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

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


def prepare_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a mask to the form that models accept.

    Args:
        mask: [rows, tokens] of integers for padded rows, returned unchanged, or boolean [1, 1, T, T] for a tree, True
            where a query (row) can attend to a key (column).
        dtype: The data type that the model computes in.

    Returns:
        The mask to pass as `attention_mask`. That of a tree has the same shape and is added to the attention scores: 0
        where attention is allowed and the lowest number of `dtype` elsewhere.
    """
    # A tree's mask is additive because Unsloth's forward does not support boolean masks.
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
