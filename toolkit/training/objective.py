"""The training loss: the head reads the trained positions alone, whatever the batch looks like and whoever runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from toolkit.batching.collators import Part
from toolkit.model.attention import model_mask

_HEAD_ROWS = 256
"""Predictions whose logits stand in memory at once: 131 MB in float32 with Llama 3's vocabulary."""


def summed_loss(model: Any, head: Any, part: Part) -> torch.Tensor:
    """Cross-entropy of a part's predictions, each weighted by its rows, summed.

    The model's own public forward runs, with adapters, wrappers and fused kernels as they are; only its head passes the
    hidden states through, so that no logits are made where nothing is trained.

    Args:
        model: the model in training mode, wrapped or not, whose output embedding is `head`.
        part: see `batching.collators`.

    Returns:
        A scalar, float32, in nats.
    """
    inputs = {"input_ids": part["input_ids"], "attention_mask": model_mask(part["attention_mask"], head.weight.dtype)}
    if "position_ids" in part:
        inputs["position_ids"] = part["position_ids"]
    with _identity(head):
        hidden = model(**inputs, use_cache=False).logits.flatten(0, 1)[part["nodes"]]
    chunks = [t.split(_HEAD_ROWS) for t in (hidden.to(head.weight.dtype), part["targets"], part["weights"])]
    if len(chunks[0]) == 1:
        return _head_loss(head, hidden.to(head.weight.dtype), part["targets"], part["weights"])
    return torch.stack(
        [checkpoint(_head_loss, head, *chunk, use_reentrant=False) for chunk in zip(*chunks, strict=True)]
    ).sum()


def _head_loss(head: Any, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none") @ weights


@contextmanager
def _identity(head: Any) -> Iterator[None]:
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
