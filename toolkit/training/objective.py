"""The training loss: the head reads the trained positions alone, whatever the batch looks like and whoever runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.batching.collators import MicroBatch
from toolkit.errors import TrainingError
from toolkit.models.attention import model_mask


def summed_loss(model: Any, head: Any, micro_batch: MicroBatch) -> torch.Tensor:
    """Cross-entropy of a part's predictions, each weighted by its rows, summed.

    The model's own public forward runs, with adapters, wrappers, fused kernels and whatever it does to logits; only its
    head is given the predicting places instead of all.

    Args:
        model: the model in training mode, wrapped or not, whose output embedding is `head`.
        micro_batch: see `batching.collators`.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: the model's logits are not those of its head, e.g. empty (unslothai/unsloth#3126), or all equal.
    """
    inputs = {
        "input_ids": micro_batch["input_ids"],
        "attention_mask": model_mask(micro_batch["attention_mask"], head.weight.dtype),
    }
    if "position_ids" in micro_batch:
        inputs["position_ids"] = micro_batch["position_ids"]
    with _restricted_head(head, micro_batch["nodes"]):
        logits = model(**inputs, use_cache=False).logits
    if logits.shape[:2] != (1, len(micro_batch["nodes"])):
        raise TrainingError(
            f"The model returned logits of shape {list(logits.shape)} for {len(micro_batch['nodes'])} predictions, so "
            "its loss cannot be known.",
            hint="Use the pinned versions of Unsloth and transformers, see README.",
        )
    check_logits_differ(logits)
    losses = torch.nn.functional.cross_entropy(logits[0].float(), micro_batch["targets"], reduction="none")
    return (losses * micro_batch["weights"]).sum()


def summed_label_loss(model: Any, micro_batch: MicroBatch) -> torch.Tensor:
    """Cross-entropy of an encoder's labels, summed over the rows of a part.

    Args:
        model: the model in training mode, wrapped or not.
        micro_batch: `labels` [rows], and what the model reads, see `training.encoder_trainer`.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: the logits are all equal.
    """
    logits = model(**{name: tensor for name, tensor in micro_batch.items() if name != "labels"}).logits
    check_logits_differ(logits)
    return torch.nn.functional.cross_entropy(logits.float(), micro_batch["labels"], reduction="sum")


@torch.no_grad()
def check_logits_differ(logits: torch.Tensor) -> None:
    """Refuse logits [..., classes] of which no prediction tells one class from another.

    Raises:
        TrainingError: they are such.
    """
    if (logits.amax(dim=-1) == logits.amin(dim=-1)).all():
        raise TrainingError(
            "The model's logits are all equal, so it knows nothing and cannot learn.",
            hint="Look at the base model's weights: a file of them may be damaged or zero.",
        )


@contextmanager
def _restricted_head(head: Any, positions: torch.Tensor) -> Iterator[None]:
    """Let the head read only `positions` of its flattened input, as one row."""
    forward, instance_forward = head.forward, vars(head).get("forward")
    head.forward = lambda hidden: forward(hidden.flatten(0, 1)[positions])[None]
    try:
        yield
    finally:
        del head.forward
        if instance_forward is not None:  # a hook that stood on the module itself
            head.forward = instance_forward
