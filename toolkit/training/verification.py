"""Before the first step: does the tree give what padded rows give, on this model, device and precision?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator
from toolkit.model.precision import Precision
from toolkit.training.objective import summed_loss

_ROWS = 4
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 3e-2}
"""Largest relative difference of the gradient that rounding explains; a wrong mask makes it 0.5 and more."""
_SCALE = 1024.0
"""A power of two, which changes no digit, keeps float16's small gradients above zero."""


@dataclass(frozen=True)
class Verification:
    """Relative differences of loss and gradient between one tree and the same rows padded."""

    loss_difference: float
    gradient_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both are within the tolerance; a difference that is no number is not."""
        return self.loss_difference <= self.tolerance and self.gradient_difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"loss and gradient of a tree differ from those of padded rows by {self.loss_difference:.1e} and "
            f"{self.gradient_difference:.1e}; rounding explains {self.tolerance:g}"
        )


def verify_tree(model: Any, rows: list[Row], loss_on: LossOn, precision: Precision) -> Verification:
    """Compare a tree with padded rows, in training mode, without dropout.

    Args:
        model: the model with its adapter; its gradients, its mode and the random state are left as they were.
        rows: some of the training rows; the four that stand next to each other when sorted share most.
        precision: what the model computes in.
    """
    rows = sorted(rows, key=lambda row: row["prompt"])[:_ROWS]
    with _no_dropout(model), torch.random.fork_rng(enabled=True):
        padded, expected = _loss_and_gradient(model, PaddedCollator(len(rows), loss_on)(rows), precision)
        tree, found = _loss_and_gradient(model, TreeCollator(10**9, loss_on)(rows), precision)
    return Verification(
        loss_difference=abs(tree - padded) / abs(padded),
        gradient_difference=float((found - expected).norm() / expected.norm()),
        tolerance=_TOLERANCE[precision.name],
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
