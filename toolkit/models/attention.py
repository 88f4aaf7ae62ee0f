"""Attention along the branches of a prefix tree, on every backend that a model may run on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

UNSLOTH_FLAGS = ("_unsloth_keep_padding_mask", "_unsloth_allow_packed_overlength")
"""What Unsloth's fused Llama forward (CUDA) looks for on the decoder: with the first it keeps a mask in training, with
the second it does not cut a row at max_seq_length, which a tree of many rows exceeds. They are private names: a test
looks for them in Unsloth's source, and a tree is never used before it is compared with padded rows."""


def unwrap_peft(model: Any) -> Any:
    """The causal language model below a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def accept_trees(model: Any, accepted: bool = True) -> None:
    """Let the model's decoder take a mask of its own and rows longer than its sequences; stock models always do."""
    for flag in UNSLOTH_FLAGS:
        setattr(unwrap_peft(model).get_decoder(), flag, accepted)


@contextmanager
def limit_sequence_length(model: Any, length: int) -> Iterator[None]:
    """Lower the length at which Unsloth's forward cuts rows, so that a small tree shows whether a large one is cut."""
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


def model_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as a model takes it: [rows, tokens] as it is, boolean [1, 1, T, T] as numbers of `dtype` to add.

    Numbers, since Unsloth's forward takes no boolean ones.
    """
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
