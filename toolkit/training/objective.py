"""The training loss: the head reads the trained positions alone, whatever the batch looks like and whoever runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.batching.collators import Part
from toolkit.errors import TrainingError
from toolkit.model.attention import model_mask


def summed_loss(model: Any, head: Any, part: Part) -> torch.Tensor:
    """Cross-entropy of a part's predictions, each weighted by its rows, summed.

    The model's own public forward runs, with adapters, wrappers, fused kernels and whatever it does to logits; only its
    head is given the predicting places instead of all.

    Args:
        model: the model in training mode, wrapped or not, whose output embedding is `head`.
        part: see `batching.collators`.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: the model's logits are not those of its head, e.g. empty (unslothai/unsloth#3126), or all equal.
    """
    inputs = {"input_ids": part["input_ids"], "attention_mask": model_mask(part["attention_mask"], head.weight.dtype)}
    if "position_ids" in part:
        inputs["position_ids"] = part["position_ids"]
    with _reading(head, part["nodes"]):
        logits = model(**inputs, use_cache=False).logits
    if logits.shape[:2] != (1, len(part["nodes"])):
        raise TrainingError(
            f"The model returned logits of shape {list(logits.shape)} for {len(part['nodes'])} predictions, so its loss"
            " cannot be known.",
            hint="Use the pinned versions of Unsloth and transformers, see README.",
        )
    refuse_equal(logits)
    losses = torch.nn.functional.cross_entropy(logits[0].float(), part["targets"], reduction="none")
    return (losses * part["weights"]).sum()


def summed_label_loss(model: Any, part: Part) -> torch.Tensor:
    """Cross-entropy of an encoder's labels, summed over the rows of a part.

    Args:
        model: the model in training mode, wrapped or not.
        part: `labels` [rows], and what the model reads, see `training.encoder`.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: the logits are all equal.
    """
    logits = model(**{name: tensor for name, tensor in part.items() if name != "labels"}).logits
    refuse_equal(logits)
    return torch.nn.functional.cross_entropy(logits.float(), part["labels"], reduction="sum")


@torch.no_grad()
def refuse_equal(logits: torch.Tensor) -> None:
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
def _reading(head: Any, places: torch.Tensor) -> Iterator[None]:
    """Let the head read only `places` of its flattened input, as one row."""
    forward, wrapper = head.forward, vars(head).get("forward")
    head.forward = lambda hidden: forward(hidden.flatten(0, 1)[places])[None]
    try:
        yield
    finally:
        del head.forward
        if wrapper is not None:  # a hook that stood on the module itself
            head.forward = wrapper
