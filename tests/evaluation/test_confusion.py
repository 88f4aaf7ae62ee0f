"""Confusion matrices to show: complete for a few labels, the most confused ones for many."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.evaluation.confusion import confused_pairs, confusion_table
from toolkit.evaluation.plots import plot_confusion_matrix


def make_metrics(labels: list[str], counts: np.ndarray, **fields: Any) -> dict[str, Any]:
    return {"labels": labels, "confusion_matrix": counts.tolist(), "mode": "constrained", **fields}


def test_few_labels_are_shown_completely() -> None:
    table = confusion_table(make_metrics(["a", "b"], np.array([[3, 1], [0, 0]]), invalid_by_label={"a": 0, "b": 0}))
    assert (table.labels, table.columns, table.remark) == (["a", "b"], ["a", "b"], "")
    assert table.counts.tolist() == [[3, 1], [0, 0]] and table.shares.tolist() == [[0.75, 0.25], [0, 0]]


def test_invalid_answers_have_a_column() -> None:
    metrics = make_metrics(["a", "b"], np.array([[1, 0], [0, 2]]), invalid_by_label={"a": 3, "b": 0}, mode="free")
    table = confusion_table(metrics)
    assert table.columns == ["a", "b", "(invalid)"] and table.counts.tolist() == [[1, 0, 3], [0, 2, 0]]


def test_many_labels_are_reduced_to_the_confused() -> None:
    counts = np.diag(np.arange(500))
    counts[400, 7] = counts[3, 499] = counts[400, 20] = 9
    metrics = make_metrics([str(i) for i in range(500)], counts, mode="free", invalid_by_label={"450": 30})
    table = confusion_table(metrics, at_most=4)
    assert table.labels == ["20", "400", "450", "499"]  # 3 and 7 have as many errors as 20, but fewer rows
    assert table.columns == [*table.labels, "(other)", "(invalid)"]
    assert table.counts.sum(axis=1).tolist() == [20, 418, 480, 499]
    assert table.counts[1].tolist() == [9, 400, 0, 0, 9, 0] and table.counts[2].tolist() == [0, 0, 450, 0, 0, 30]
    assert table.remark == "the 4 of 500 labels with the most errors"
    assert len(confusion_table(metrics).labels) == 30


def test_picture_of_many_labels_has_bounded_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = [f"label {i}" for i in range(500)]
    table = confusion_table(make_metrics(labels, random.integers(0, 9, (500, 500))))
    plot_confusion_matrix(table, "adapter", tmp_path / "matrix.png")
    width, height = np.frombuffer((tmp_path / "matrix.png").read_bytes()[16:24], dtype=">u4")
    assert width < 6500 and height < 6500


@pytest.mark.filterwarnings("ignore:Glyph")  # DejaVu Sans has no Chinese characters
@pytest.mark.parametrize("name", ["$\\frac{$", "矛盾 👍", "x" * 5000, "a\nb", "\\", "_", "^{", "\x00"])
def test_any_label_can_be_drawn(tmp_path: Path, name: str) -> None:
    table = confusion_table(make_metrics([name, "b"], np.array([[1, 2], [0, 1]])))
    plot_confusion_matrix(table, f"{name}: 50.0% of 4 rows", tmp_path / "matrix.png")
    width = int(np.frombuffer((tmp_path / "matrix.png").read_bytes()[16:20], dtype=">u4")[0])
    assert width < 2000


def test_most_confused_pairs_are_named() -> None:
    counts = np.diag(np.arange(500))
    counts[400, 7], counts[3, 499], counts[20, 400] = 9, 12, 9
    metrics = make_metrics([str(i) for i in range(500)], counts)
    assert confused_pairs(metrics) == [("3", "499", 12), ("20", "400", 9), ("400", "7", 9)]
    assert confused_pairs(metrics, at_most=1) == [("3", "499", 12)]
    assert confused_pairs(make_metrics(["a", "b"], np.diag([3, 4]))) == []
