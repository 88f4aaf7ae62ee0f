"""The form in which rows are passed through the model, prefix trees or padded rows, and its verification."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verification:
    """The comparison of one prefix tree with the same rows padded, before the first step.

    Args:
        loss_difference: The relative difference of the losses. None if it is not finite.
        gradient_difference: The relative difference of the gradients. None if it is not finite.
        tolerance: The largest difference that rounding can explain.
        error: The error of the tree's forward or backward pass, if it failed.
    """

    loss_difference: float | None
    gradient_difference: float | None
    tolerance: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """True if both differences are finite and within the tolerance."""
        differences = (self.loss_difference, self.gradient_difference)
        return all(difference is not None and difference <= self.tolerance for difference in differences)

    def __str__(self) -> str:
        if self.error:
            return f"a prefix tree cannot be computed: {self.error}"
        loss, gradient = (
            "not finite" if difference is None else f"{difference:.1e}"
            for difference in (self.loss_difference, self.gradient_difference)
        )
        return (
            f"relative difference between a prefix tree and the same rows padded: loss {loss}, gradient {gradient} "
            f"(tolerance {self.tolerance:g})"
        )


@dataclass(frozen=True)
class Batching:
    """The form in which rows are collated into tensors.

    Args:
        name: prefix_tree or padded.
        reason: The reason for the choice, which is printed and recorded.
        token_ratio: Padded tokens per tree node. None before it is measured.
        verification: The comparison of a prefix tree with padded rows. None before it is made.
    """

    name: Literal["prefix_tree", "padded"]
    reason: str
    token_ratio: float | None = None
    verification: Verification | None = None
