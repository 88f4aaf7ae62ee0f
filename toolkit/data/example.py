"""One checked row."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """One checked row; `slices` holds the values of the columns that the evaluation is sliced by."""

    id: str
    premise: str
    hypothesis: str
    label: str
    slices: Mapping[str, str] = field(default_factory=dict)
