"""The optimizer of the matrices in pre-training."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Newton-Schulz coefficients of the method's source, and as many rounds.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, in float32 and all of one shape at once.

    The method is Keller Jordan's (kellerjordan.github.io/posts/muon, 2024). `torch.optim.Muon` multiplies in bfloat16,
    which processors without bfloat16 units emulate: 6.8 s instead of 0.1 s a step for the embedded model.

    Args:
        params: matrices.
        lr: of a step; each step moves every singular direction about this far.
        momentum: Nesterov's.
        weight_decay: share of `lr` by which weights shrink in a step.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                shapes[tuple(matrix.shape)].append((matrix, matrix.grad.lerp(momentum, group["momentum"])))
            for (rows, columns), entries in shapes.items():
                updates = orthogonal(torch.stack([update for _, update in entries]))
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (matrix, _), update in zip(entries, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices [n, rows, columns] with the same singular vectors and singular values of about 0.7 to 1.2."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    result = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), result, beta=_A)
    return result
