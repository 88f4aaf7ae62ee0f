"""An example: a row that has passed all checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """A checked row.

    Args:
        id: The id of the row.
        inputs: The text of each input, e.g. of premise and hypothesis, in the order of `TaskSection.inputs`.
        label: The label. For a soft label, the most probable one; on a tie, the first one in the recipe.
        slices: The value of each column of evaluation.slice_by in this row.
        soft_label: The probability of each label of the task, in their order. None for a row with a single label.
    """

    id: str
    inputs: Mapping[str, str]
    label: str
    slices: Mapping[str, str] = field(default_factory=dict)
    soft_label: tuple[float, ...] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the inputs, in order."""
        return tuple(self.inputs.values())

    @property
    def group(self) -> str:
        """The text of the first input. Rows that share it, such as those of a premise, are not independent."""
        return next(iter(self.inputs.values()))

    @property
    def is_tied(self) -> bool:
        """True if several labels of a soft label tie for the highest probability."""
        if self.soft_label is None:
            return False
        # Sums of mapped labels, such as 0.15 + 0.3, differ from equal probabilities by rounding.
        highest = max(self.soft_label)
        return sum(math.isclose(probability, highest, rel_tol=1e-9) for probability in self.soft_label) > 1
