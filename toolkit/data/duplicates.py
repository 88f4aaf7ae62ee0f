"""Near-duplicate rows: repeated pairs, conflicting labels, and evaluation pairs that were trained on."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.data.example import Example

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class NearDuplicates:
    """Counts of rows whose pair of texts occurs elsewhere, ignoring what `normalize` removes.

    Args:
        repeats: Training rows that repeat the pair of an earlier row.
        conflicts: Training rows whose pair also occurs with another label.
        leaked: Evaluation rows whose pair occurs in the training rows.
    """

    repeats: int
    conflicts: int
    leaked: int

    def __str__(self) -> str:
        return (
            f"{self.repeats:,} training rows repeat a pair (ignoring case and punctuation), {self.conflicts:,} have "
            f"conflicting labels, {self.leaked:,} evaluation rows also occur in training"
        )


def normalize(text: str) -> str:
    """Return the words of a text, case-folded, in Unicode's NFKC form and without punctuation.

    Accents stay, because they distinguish words.
    """
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def find_near_duplicates(train: Sequence[Example], evaluation: Sequence[Example]) -> NearDuplicates:
    """Count near-duplicates, in time and memory linear in the number of rows."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in train:
        labels[_normalized_texts(row)].append(row.label)
    return NearDuplicates(
        repeats=sum(len(pair_labels) - 1 for pair_labels in labels.values()),
        conflicts=sum(len(pair_labels) for pair_labels in labels.values() if len(set(pair_labels)) > 1),
        leaked=sum(_normalized_texts(row) in labels for row in evaluation),
    )


def _normalized_texts(row: Example) -> tuple[str, str]:
    return normalize(row.premise), normalize(row.hypothesis)
