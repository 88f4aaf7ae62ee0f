"""Before the first step: does the tree give what padded rows give, on this model, device and precision?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator
from toolkit.errors import first_line
from toolkit.model.attention import limited_to
from toolkit.model.precision import Precision
from toolkit.out_of_memory import memory_errors
from toolkit.run_folder import finite
from toolkit.training.objective import summed_loss

_ROWS = 4
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 3e-2}
"""Largest relative difference of the gradient that rounding explains; a wrong mask makes it 0.5 and more."""
_HINT = "Set model.load_in_4bit: true and training.gradient_checkpointing: true, or take a smaller model."
_SCALE = 1024.0
"""A power of two, which changes no digit, keeps float16's small gradients above zero."""


@dataclass(frozen=True)
class Verification:
    """Relative differences of loss and gradient between one tree and the same rows padded.

    None where they are no numbers; `error` is what the tree's forward or backward pass raised, if it did.
    """

    loss_difference: float | None
    gradient_difference: float | None
    tolerance: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether both are numbers within the tolerance."""
        found = (self.loss_difference, self.gradient_difference)
        return all(difference is not None and difference <= self.tolerance for difference in found)

    def __str__(self) -> str:
        if self.error:
            return f"a tree cannot be computed: {self.error}"
        loss, gradient = (
            "no number" if difference is None else f"{difference:.1e}"
            for difference in (self.loss_difference, self.gradient_difference)
        )
        return (
            f"loss and gradient of a tree differ from those of padded rows by {loss} and {gradient}; rounding explains "
            f"{self.tolerance:g}"
        )


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
    with _no_dropout(model), torch.random.fork_rng(), limited_to(model, longest):
        try:
            with memory_errors(f"The device's memory does not hold {len(rows)} rows of a training step.", hint=_HINT):
                loss, expected = _loss_and_gradient(model, padded, precision)
                tree_loss, found = _loss_and_gradient(model, tree, precision)
        except (RuntimeError, ValueError, IndexError) as error:  # however a backend refuses a mask of its own
            model.zero_grad()
            return Verification(None, None, tolerance, first_line(error))
    return Verification(
        loss_difference=finite(abs(tree_loss - loss) / abs(loss)),
        gradient_difference=finite(float((found - expected).norm() / expected.norm())),
        tolerance=tolerance,
    )


def _loss_and_gradient(model: Any, step: dict[str, Any], precision: Precision) -> tuple[float, torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, head = trained[0].device, model.get_base_model().get_output_embeddings()
    part = {name: tensor.to(device) for name, tensor in step["parts"][0].items()}
    with torch.autocast(device.type, precision.dtype, enabled=precision.name != "float32"):
        loss = summed_loss(model, head, part) / step["trained"].item()
    (loss * _SCALE).backward()
    gradients = [p.grad.float().cpu().flatten() for p in trained if p.grad is not None]
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
