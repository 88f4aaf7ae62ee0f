"""The training loss, the same for padded batches and prefix trees.

The language-model head is applied only to positions with a prediction. Logits of all positions would take
vocabulary x positions numbers, which for a long prompt and a short answer is mostly waste.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.batching.collators import MicroBatch
from toolkit.batching.label_targets import log_label_probabilities
from toolkit.errors import TrainingError
from toolkit.models.tree_layout import model_inputs


def summed_loss(model: Any, head: Any, micro_batch: MicroBatch) -> torch.Tensor:
    """Return the weighted sum of the cross-entropy of a micro-batch, of its tokens or of its labels.

    The model's public forward is called as it is, so adapters, wrappers, fused kernels and changes to the logits (such
    as a soft cap) all take part. Only its head is limited to the positions with a prediction.

    Args:
        model: The model in training mode, wrapped by DDP or not.
        head: The model's output embeddings.
        micro_batch: See `batching.collators`.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: If the logits have an unexpected shape, e.g. empty (unslothai/unsloth#3126), or are all equal.
    """
    inputs = model_inputs(micro_batch, getattr(model, "module", model).config, head.weight.dtype)
    with _restricted_head(head, micro_batch["nodes"]):
        logits = model(**inputs, use_cache=False).logits
    if logits.shape[:2] != (1, len(micro_batch["nodes"])):
        raise TrainingError(
            f"The model returned logits of shape {list(logits.shape)} for {len(micro_batch['nodes'])} predictions, so "
            "the loss cannot be computed.",
            hint="Use the pinned versions of Unsloth and transformers, see README.",
        )
    check_logits_differ(logits)
    if "label_tokens" in micro_batch:
        return -(log_label_probabilities(logits[0], micro_batch) * micro_batch["weights"]).sum()
    losses = torch.nn.functional.cross_entropy(logits[0].float(), micro_batch["targets"], reduction="none")
    return (losses * micro_batch["weights"]).sum()


def summed_label_loss(model: Any, micro_batch: MicroBatch) -> torch.Tensor:
    """Return the cross-entropy of an encoder's labels, summed over the rows of a micro-batch.

    Args:
        model: The model in training mode, wrapped by DDP or not.
        micro_batch: The model's inputs and `labels`: the label of each row, [rows] int64, or the weight of each label,
            [rows, labels] float32.

    Returns:
        A scalar, float32, in nats.

    Raises:
        TrainingError: If the logits are all equal.
    """
    logits = model(**{name: tensor for name, tensor in micro_batch.items() if name != "labels"}).logits
    check_logits_differ(logits)
    return torch.nn.functional.cross_entropy(logits.float(), micro_batch["labels"], reduction="sum")


@torch.no_grad()
def check_logits_differ(logits: torch.Tensor) -> None:
    """Check that some prediction in logits [..., classes] has different values for different classes.

    Without this check, a model of zero weights would train: its loss is that of a uniform guess, its gradient 0.

    Raises:
        TrainingError: If each prediction gives the same logit to all classes.
    """
    if (logits.amax(dim=-1) == logits.amin(dim=-1)).all():
        raise TrainingError(
            "The model's logits are all equal, so the model cannot learn.",
            hint="Check the base model's weights: a file may be damaged or contain only zeros.",
        )


@contextmanager
def _restricted_head(head: Any, positions: torch.Tensor) -> Iterator[None]:
    """Apply the head only to `positions` of its flattened input; its output has one row."""
    # accelerate's hooks replace `forward` on the instance, where this context puts its own. So an earlier replacement
    # is called inside and put back at the end. Without one, deleting the attribute restores the class's method.
    forward, instance_forward = head.forward, vars(head).get("forward")
    head.forward = lambda hidden: forward(hidden.flatten(0, 1)[positions])[None]
    try:
        yield
    finally:
        del head.forward
        if instance_forward is not None:
            head.forward = instance_forward
