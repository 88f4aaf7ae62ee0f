"""Before the first step: does the tree give what padded rows give, on this model, device and precision?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator
from toolkit.errors import first_line
from toolkit.models.attention import limit_sequence_length
from toolkit.models.precision import Precision
from toolkit.planning.job import Verification
from toolkit.runs.run_folder import finite
from toolkit.training.objective import summed_loss
from toolkit.utils.memory_errors import memory_errors

_ROWS = 4
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 3e-2}
"""Largest relative difference of the gradient that rounding explains; a wrong mask makes it 0.5 and more."""
_HINT = "Set model.load_in_4bit: true and training.gradient_checkpointing: true, or take a smaller model."
_SCALE = 1024.0
"""A power of two, which changes no digit, keeps float16's small gradients above zero."""


def verify_tree(model: Any, rows: list[Row], loss_on: LossOn, precision: Precision) -> Verification:
    """Compare a tree with padded rows, in training mode, without dropout.

    Args:
        model: the model with its adapter; its mode and the random state are left as they were, gradients are cleared.
        rows: some of the training rows; the first four in sorted order are taken, which begin alike.
        precision: what the model computes in.

    Raises:
        DeviceMemoryError: not even four rows fit.
    """
    rows = sorted(rows, key=lambda row: row["prompt"])[:_ROWS]
    tolerance = _TOLERANCE[precision.name]
    padded, tree = PaddedCollator(len(rows), loss_on)(rows), TreeCollator(10**9, loss_on)(rows)
    longest = padded["parts"][0]["input_ids"].shape[1]
    with _no_dropout(model), torch.random.fork_rng(), limit_sequence_length(model, longest):
        try:
            with memory_errors(f"The device's memory does not hold {len(rows)} rows of a training step.", hint=_HINT):
                padded_loss, padded_gradient = _loss_and_gradient(model, padded, precision)
                tree_loss, tree_gradient = _loss_and_gradient(model, tree, precision)
        except (RuntimeError, ValueError, IndexError) as error:  # however a backend refuses a mask of its own
            model.zero_grad()
            return Verification(None, None, tolerance, first_line(error))
    return Verification(
        loss_difference=finite(abs(tree_loss - padded_loss) / abs(padded_loss)),
        gradient_difference=finite(float((tree_gradient - padded_gradient).norm() / padded_gradient.norm())),
        tolerance=tolerance,
    )


def _loss_and_gradient(model: Any, step: dict[str, Any], precision: Precision) -> tuple[float, torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, head = trained[0].device, model.get_base_model().get_output_embeddings()
    micro_batch = {name: tensor.to(device) for name, tensor in step["parts"][0].items()}
    with torch.autocast(device.type, precision.dtype, enabled=precision.name != "float32"):
        loss = summed_loss(model, head, micro_batch) / step["trained"].item()
    (loss * _SCALE).backward()
    gradients = [parameter.grad.float().cpu().flatten() for parameter in trained if parameter.grad is not None]
    model.zero_grad()
    return loss.item(), torch.cat(gradients)


@contextmanager
def _no_dropout(model: Any) -> Iterator[None]:
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
