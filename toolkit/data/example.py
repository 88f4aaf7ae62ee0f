"""An example: a row that has passed all checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """A checked row. `slices` maps each column of evaluation.slice_by to its value in this row."""

    id: str
    premise: str
    hypothesis: str
    label: str
    slices: Mapping[str, str] = field(default_factory=dict)
