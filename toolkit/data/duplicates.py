"""Near-duplicate rows: repeated texts, conflicting labels, and evaluation texts that were trained on."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from toolkit.data.example import Example
from toolkit.recipe.inputs import name_rows

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class NearDuplicates:
    """Counts of rows whose texts all occur in another row, ignoring what `normalize` removes.

    Args:
        repeats: Training rows that repeat the texts of an earlier row.
        conflicts: Training rows whose texts also occur with another label.
        leaked: Evaluation rows whose texts occur in the training rows.
        leaked_dev: Dev rows whose texts occur in the training rows. None without dev rows.
        evaluated_dev: Dev rows whose texts occur in the evaluation rows. None without dev rows.
    """

    repeats: int
    conflicts: int
    leaked: int
    leaked_dev: int | None = None
    evaluated_dev: int | None = None

    def record(self) -> dict[str, int]:
        """Return the counts for run.json."""
        return {name: count for name, count in asdict(self).items() if count is not None}

    def describe(self, inputs: Sequence[str]) -> str:
        """Return the counts as text, for rows with these inputs."""
        repeated = "a pair" if name_rows(inputs) == "pairs" else "an earlier one"
        dev = ""
        if self.leaked_dev is not None:
            dev = f", {self.leaked_dev:,} dev rows also occur in training, {self.evaluated_dev:,} in evaluation"
        return (
            f"{self.repeats:,} training rows repeat {repeated} (ignoring case and punctuation), "
            f"{self.conflicts:,} have conflicting labels, {self.leaked:,} evaluation rows also occur in training{dev}"
        )


def normalize(text: str) -> str:
    """Return the words of a text, case-folded, in Unicode's NFKC form and without punctuation.

    Accents stay, because they distinguish words.
    """
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def find_near_duplicates(
    train: Sequence[Example], evaluation: Sequence[Example], dev: Sequence[Example] = ()
) -> NearDuplicates:
    """Count near-duplicates, in time and memory linear in the number of rows."""
    labels: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in train:
        labels[_normalized_texts(row)].append(row.label)
    evaluated = {_normalized_texts(row) for row in evaluation}
    return NearDuplicates(
        repeats=sum(len(row_labels) - 1 for row_labels in labels.values()),
        conflicts=sum(len(row_labels) for row_labels in labels.values() if len(set(row_labels)) > 1),
        leaked=sum(_normalized_texts(row) in labels for row in evaluation),
        leaked_dev=sum(_normalized_texts(row) in labels for row in dev) if dev else None,
        evaluated_dev=sum(_normalized_texts(row) in evaluated for row in dev) if dev else None,
    )


def _normalized_texts(row: Example) -> tuple[str, ...]:
    return tuple(map(normalize, row.texts))
