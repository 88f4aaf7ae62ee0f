"""A check before the first step that a prefix tree gives the gradient of padded rows on this model and device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeAttention, TreeCollator
from toolkit.batching.label_targets import LabelTargets, limit_labels
from toolkit.batching.sampling import LENGTH_MULTIPLES
from toolkit.errors import first_line
from toolkit.models.attention import sliding_window
from toolkit.models.precision import Precision
from toolkit.models.tree_attention import MASK_ERRORS, limit_sequence_length
from toolkit.planning.batching import Verification
from toolkit.planning.job import TrainingJob
from toolkit.runs.run_folder import finite_or_none
from toolkit.training.objective import summed_loss
from toolkit.utils.memory_errors import memory_errors

_ROWS = 4
_LABELS = 4
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 3e-2}
"""Largest relative difference of the gradients that rounding can explain. A wrong mask gives 0.5 or more."""
_HINT = "Set model.load_in_4bit: true and training.gradient_checkpointing: true, or use a smaller model."
_LOSS_SCALE = 1024.0
"""Keeps small float16 gradients from underflowing to zero. A power of two does not change their digits."""


def choose_rows(job: TrainingJob, config: Any) -> list[Row]:
    """Return the rows to verify: those of the first step, or two with the longest row if it exceeds the sliding window.

    Short rows fit into the window, so they would not show that a tree is wrong for longer ones.
    """
    rows, window = job.first_batches(1)[0], sliding_window(config)
    lengths = [len(row) for row in job.preflight.train_rows]
    if window is None or max(lengths) <= window:
        return rows
    long_row = job.training_row(lengths.index(max(lengths)))
    # Only one other row, with which the longest one shares a prefix, because two long rows already need much memory.
    return [*[row for row in rows if row != long_row][:1], long_row]


def verify_tree(
    model: Any,
    rows: list[Row],
    loss_on: LossOn,
    precision: Precision,
    attention: TreeAttention = "split",
    labels: LabelTargets | None = None,
) -> Verification:
    """Compare loss and gradient of a prefix tree with those of the same rows padded.

    A backend can accept the mask of a tree and ignore it, as Unsloth's fused forward does in training unless a flag is
    set (see `models.tree_attention`). So both kinds of batch run through the real model, in training mode.

    Args:
        model: The model with its adapter. Its mode and the random state do not change; its gradients are cleared.
        rows: Some of the training rows, see `choose_rows`. At most four of them are compared.
        loss_on: The tokens that are trained on.
        precision: The precision of the model's computation.
        attention: The attention to compute the tree with.
        labels: The labels, if rows have weights for them.

    Raises:
        DeviceMemoryError: If four rows do not fit into memory.
    """
    rows = sorted(rows, key=lambda row: row["prompt"])[:_ROWS]  # sorted rows are most likely to share a prefix
    if labels is not None:  # padded, each label of each row is a sequence of its own, so hundreds would not fit
        rows, labels = limit_labels(rows, labels, _LABELS if len(rows) > 2 else 2)
    tolerance = _TOLERANCE[precision.name]
    multiple = LENGTH_MULTIPLES[model.device.type, precision.dtype.itemsize]
    padded = PaddedCollator(len(rows), loss_on, labels)(rows)
    tree = TreeCollator(10**9, loss_on, multiple, attention, labels=labels)(rows)
    # Unsloth truncates what exceeds max_seq_length. A tree of many rows does, but this small one would not. With the
    # limit lowered to the longest row, this tree would be truncated, too, and the comparison would fail.
    longest = padded["micro_batches"][0]["input_ids"].shape[1]
    with _no_dropout(model), torch.random.fork_rng(), limit_sequence_length(model, longest):
        try:
            with memory_errors(f"Out of memory during a training step of {len(rows)} rows.", hint=_HINT):
                padded_loss, padded_gradient = _loss_and_gradient(model, padded, precision)
                tree_loss, tree_gradient = _loss_and_gradient(model, tree, precision)
        except MASK_ERRORS as error:
            model.zero_grad()
            return Verification(None, None, tolerance, first_line(error))
    return Verification(
        loss_difference=finite_or_none(abs(tree_loss - padded_loss) / abs(padded_loss)),
        gradient_difference=finite_or_none(float((tree_gradient - padded_gradient).norm() / padded_gradient.norm())),
        tolerance=tolerance,
    )


def _loss_and_gradient(model: Any, step: dict[str, Any], precision: Precision) -> tuple[float, torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, head = trained[0].device, model.get_base_model().get_output_embeddings()
    micro_batch = {name: tensor.to(device) for name, tensor in step["micro_batches"][0].items()}
    with torch.autocast(device.type, precision.dtype, enabled=precision.name != "float32"):
        loss = summed_loss(model, head, micro_batch) / step["predictions"].item()
    # The scale cancels out, since both gradients have it and only their relative difference is used.
    (loss * _LOSS_SCALE).backward()
    gradients = [parameter.grad.float().cpu().flatten() for parameter in trained if parameter.grad is not None]
    model.zero_grad()
    return loss.item(), torch.cat(gradients)


@contextmanager
def _no_dropout(model: Any) -> Iterator[None]:
    """Put the model into training mode without dropout.

    Evaluation mode would turn off dropout, too, but backends take other code paths in it: Unsloth's fused forward drops
    the mask only in training, and gradient checkpointing works only in training.
    """
    was_training = model.training
    dropouts = [(module, module.p) for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    model.train()
    try:
        for module, _ in dropouts:
            module.p = 0.0
        yield
    finally:
        model.train(was_training)
        for module, rate in dropouts:
            module.p = rate
