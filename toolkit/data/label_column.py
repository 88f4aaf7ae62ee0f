"""The column with the labels: its values, the rows that are left out, and signs that it does not contain labels."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.messages import list_names
from toolkit.data.values import optional_text, read_label
from toolkit.errors import DataError
from toolkit.recipe.data_section import Source
from toolkit.recipe.labels import label_texts, left_out_texts, normalize_label
from toolkit.recipe.schema import Recipe

NO_LABEL = "(no label)"
"""The name of a missing label among the values whose rows are left out."""

_MIN_UNIQUE_ROWS = 10  # in fewer rows, labels can all differ by chance
_MAX_RARE_LABELS = 20  # so few labels can have a single row each, as in a quick test


@dataclass(frozen=True)
class LabelColumn:
    """The column with the labels of a source.

    Args:
        name: The name of the column.
        labels: The label of each text that means one, by its normalized form.
        left_out: The normalized form of each text whose rows are left out.
        skips_unlabeled: Whether rows without a label are left out.
        map_key: The key of the label map in the recipe, for messages.
    """

    name: str
    labels: Mapping[str, str]
    left_out: frozenset[str]
    skips_unlabeled: bool
    map_key: str

    @classmethod
    def of(cls, recipe: Recipe, source: Source, *, is_training: bool) -> "LabelColumn":
        """Return the label column of a source.

        Args:
            recipe: The recipe.
            source: The source, whose own label map replaces that of the recipe, even if it is empty.
            is_training: Whether the rows are trained on. Others can have the names of evaluation.merge_labels.
        """
        label_map = recipe.data.label_map if source.label_map is None else source.label_map
        merged = () if is_training else tuple(recipe.evaluation.merge_labels)
        return cls(
            recipe.columns_of(source).label,
            label_texts((*recipe.task.labels, *merged), label_map),
            left_out_texts(label_map),
            recipe.data.unlabeled == "skip",
            "data.label_map" if source.label_map is None else "the label_map of this source",
        )

    def reason_to_leave_out(self, value: Any) -> str | None:
        """Return the value as text, or NO_LABEL, if its row is left out, else None."""
        if isinstance(value, (list, dict, bytes)):
            return None  # `read` reports it
        text = optional_text(self.name, value)
        if text is None:
            return NO_LABEL if self.skips_unlabeled else None
        normalized = normalize_label(text)
        return normalized if normalized in self.left_out else None

    def read(self, value: Any) -> str:
        """Return the label that a value means.

        Raises:
            DataError: If the value is missing or does not mean a label. Its hint suggests what to do.
        """
        try:
            return read_label(self.name, value, self.labels)
        except DataError as error:
            if error.hint is None:
                error.hint = self._hint(value)
            raise

    def _hint(self, value: Any) -> str:
        if isinstance(value, (dict, bytes)):
            return f"Fix the rows, or name the column with the labels in data.columns.label, e.g. {self.name}.KEY."
        if optional_text(self.name, value) is None:
            return "Fix the rows, or leave out rows without a label with data.unlabeled: skip."
        key = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool, int, float)) else f'"{value}"'
        label = next(iter(self.labels.values()))
        return (
            f"Fix the rows, or map the value with {self.map_key}: {{{key:.80}: {label}}}; {{{key:.80}: null}} leaves "
            "out its rows."
        )

    def find_problem(self, values: Sequence[Any]) -> str | None:
        """Return a sentence if a column with invalid labels does not contain labels at all, because most differ."""
        texts = [str(value) for value in values if isinstance(value, (str, int, float))]
        distinct = {normalize_label(text): text for text in texts}
        unknown = [text for normalized, text in distinct.items() if normalized not in self.labels]
        if not unknown or len(values) < _MIN_UNIQUE_ROWS or len(distinct) <= len(values) / 2:
            return None
        return (
            f"column {self.name!r} has {len(distinct):,} different values in {len(values):,} rows, such as "
            f"{list_names(map(repr, unknown[:2]))}, so it does not contain labels"
        )


def find_rare_labels(labels: Sequence[str]) -> str | None:
    """Return a sentence if most labels of the training rows have a single row, else None."""
    counts = Counter(labels)
    if len(counts) <= max(_MAX_RARE_LABELS, len(labels) / 2):
        return None
    single = sum(count == 1 for count in counts.values())
    return (
        f"has {len(counts):,} different labels in {len(labels):,} rows, and {single:,} of them occur only once, so the "
        "model could not learn them"
    )
