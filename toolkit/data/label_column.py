"""The column with the labels: its values, the rows that are left out, and signs that it does not contain labels."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.data.messages import list_names
from toolkit.data.soft_labels import has_probabilities, is_mapping_text, read_soft_label
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
        task_labels: The labels of the task, in the order of the probabilities of a soft label.
    """

    name: str
    labels: Mapping[str, str]
    left_out: frozenset[str]
    skips_unlabeled: bool
    map_key: str
    task_labels: tuple[str, ...]

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
            recipe.task.labels,
        )

    def reason_to_leave_out(self, value: Any) -> str | None:
        """Return the value as text, or NO_LABEL, if its row is left out, else None."""
        if isinstance(value, dict) and not has_probabilities(value):
            value = None
        if isinstance(value, (list, dict, bytes)):
            return None  # `read` reports it, or reads it as a soft label
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

    def read_with_probabilities(self, value: Any) -> tuple[str, tuple[float, ...] | None]:
        """Return the label that a value means and, if it is a mapping, the probabilities of all labels.

        A mapping in which one label has the probability 1 is a single label, without probabilities.

        Raises:
            DataError: As `read`, or if a mapping is not a soft label, see `read_soft_label`.
        """
        if not isinstance(value, dict):
            return self.read(value), None
        try:
            probabilities = read_soft_label(self.name, value, self.labels, self.left_out, self.task_labels)
        except DataError as error:
            if error.hint is None:
                error.hint = self._hint(value)
            raise
        # Of equal probabilities, `index` finds the first.
        label = self.task_labels[probabilities.index(max(probabilities))]
        return label, None if max(probabilities) == 1 else probabilities

    def _hint(self, value: Any) -> str:
        if isinstance(value, dict) and not has_probabilities(value):
            value = None
        if isinstance(value, dict) and all(isinstance(number, (int, float, type(None))) for number in value.values()):
            return f"Fix the key, or map it to a label with {self.map_key}."
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
        if any(map(is_mapping_text, unknown)):
            return None  # the messages of the rows explain more
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
