"""The part of a confusion matrix that people can read: of many labels, only those with the most errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_SHOWN_LABELS = 30
MAX_SHOWN_PAIRS = 5


@dataclass(frozen=True)
class ConfusionTable:
    """A confusion matrix to show.

    Args:
        labels: The gold labels of the rows, in the recipe's order.
        columns: The names of the columns: the same labels, then `(other)` and `(invalid)` if they are needed.
        counts: [labels, columns]. A row's sum is the number of rows with its gold label.
        all_labels: The number of labels of the recipe.
    """

    labels: list[str]
    columns: list[str]
    counts: np.ndarray
    all_labels: int

    @property
    def shares(self) -> np.ndarray:
        """The shares of each gold label, [labels, columns], 0 for a label without rows."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    @property
    def remark(self) -> str:
        """A remark on the labels that are left out, or an empty text if all are shown."""
        is_complete = len(self.labels) == self.all_labels
        return "" if is_complete else f"the {len(self.labels)} of {self.all_labels:,} labels with the most errors"


def confusion_table(metrics: Mapping[str, Any], *, at_most: int = MAX_SHOWN_LABELS) -> ConfusionTable:
    """Return the confusion matrix of an evaluation, reduced to the labels with the most errors if there are many.

    Args:
        metrics: The contents of metrics.json.
        at_most: The number of labels to show.
    """
    labels, counts = metrics["labels"], np.array(metrics["confusion_matrix"])
    invalid_by_label = metrics.get("invalid_by_label") or {}
    # Constrained decoding can only give labels, so it needs no column.
    has_invalid = bool(invalid_by_label) and metrics.get("mode") == "free"
    invalid = np.array([invalid_by_label.get(label, 0) for label in labels])
    gold = counts.sum(axis=1)
    # Rows of the label that got another answer, and rows of other labels that got this one.
    errors = gold + invalid + counts.sum(axis=0) - 2 * np.diag(counts)
    # Labels without errors are ordered by their rows, and a label that does not occur comes last.
    order = np.lexsort((-gold, -errors))
    shown = np.sort(order[:at_most])
    table, columns = counts[np.ix_(shown, shown)], [labels[i] for i in shown]
    names = list(columns)
    if len(shown) < len(labels):
        table, names = np.column_stack([table, gold[shown] - table.sum(axis=1)]), [*names, "(other)"]
    if has_invalid:
        table, names = np.column_stack([table, invalid[shown]]), [*names, "(invalid)"]
    return ConfusionTable(columns, names, table, len(labels))


def confused_pairs(metrics: Mapping[str, Any], *, at_most: int = MAX_SHOWN_PAIRS) -> list[tuple[str, str, int]]:
    """Return the most frequent errors as (gold label, predicted label, rows), the most frequent one first.

    Args:
        metrics: The contents of metrics.json.
        at_most: The number of pairs to return.
    """
    labels, counts = metrics["labels"], np.array(metrics["confusion_matrix"])
    np.fill_diagonal(counts, 0)
    # Stable: equally frequent errors stay in the order of the labels.
    order = np.argsort(-counts, axis=None, kind="stable")[:at_most]
    cells = [
        (int(gold), int(predicted)) for gold, predicted in zip(*np.unravel_index(order, counts.shape), strict=True)
    ]
    return [
        (labels[gold], labels[predicted], int(counts[gold, predicted]))
        for gold, predicted in cells
        if counts[gold, predicted]
    ]
