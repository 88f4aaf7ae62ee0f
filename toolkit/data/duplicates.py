"""Rows that say the same, case, punctuation and spaces aside: repeats, contradictory labels, leaks into evaluation."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.data.example import Example

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class NearDuplicates:
    """Counts of rows by their pairs of texts, compared by `normalize`.

    Args:
        repeats: training rows whose pair another one before them has.
        conflicts: training rows whose pair also has another label.
        leaked: evaluation rows whose pair stands in training.
    """

    repeats: int
    conflicts: int
    leaked: int

    def __str__(self) -> str:
        return (
            f"{self.repeats:,} training rows repeat a pair, case and punctuation aside, {self.conflicts:,} have a pair "
            f"of two labels; {self.leaked:,} evaluation rows stand so in training"
        )


def normalize(text: str) -> str:
    """A text's words, letters and digits alone, in one case and one spelling of each character (NFKC); accents stay."""
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def find_near_duplicates(train: Sequence[Example], evaluation: Sequence[Example]) -> NearDuplicates:
    """Count them; time and memory grow with the rows, not with their pairs."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in train:
        labels[_pair(row)].append(row.label)
    return NearDuplicates(
        repeats=sum(len(pair_labels) - 1 for pair_labels in labels.values()),
        conflicts=sum(len(pair_labels) for pair_labels in labels.values() if len(set(pair_labels)) > 1),
        leaked=sum(_pair(row) in labels for row in evaluation),
    )


def _pair(row: Example) -> tuple[str, str]:
    return normalize(row.premise), normalize(row.hypothesis)
