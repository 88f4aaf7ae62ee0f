"""The summary of predictions.jsonl: confidence bins and the most confident errors."""

import json
from pathlib import Path

import pytest

from tests.evaluation.run_files import make_predictions, write_predictions
from toolkit.errors import RunError
from toolkit.evaluation.metrics import compute_metrics
from toolkit.reporting.prediction_summary import summarize_predictions


def test_bins_reproduce_the_recorded_ece(tmp_path: Path) -> None:
    examples, predictions = make_predictions(500)
    write_predictions(tmp_path / "p.jsonl", examples, predictions)
    summary = summarize_predictions(tmp_path / "p.jsonl")
    metrics = compute_metrics(examples, predictions)
    assert summary.bins is not None and summary.bins.counts.sum() == 500 and len(summary.bins.counts) == 15
    assert summary.bins.error == pytest.approx(metrics["ece"], abs=1e-12)
    correct = sum(bin_.rows * bin_.accuracy for bin_ in summary.bins.filled)
    assert round(correct) == round(metrics["accuracy"] * 500)


def test_errors_are_sorted_by_descending_confidence(tmp_path: Path) -> None:
    examples, predictions = make_predictions(500)
    path = tmp_path / "p.jsonl"
    write_predictions(path, examples, predictions)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [row for row in rows if row["prediction"] != row["label"]]
    wrong.sort(key=lambda row: -row["probabilities"][row["prediction"]])
    errors = summarize_predictions(path, errors=20).errors
    assert [error.id for error in errors] == [row["id"] for row in wrong[:20]]
    assert errors[0].inputs == {name: wrong[0][name] for name in ("premise", "hypothesis")}
    assert errors[0].probability == wrong[0]["probabilities"][wrong[0]["prediction"]]


def test_rows_without_probabilities_are_skipped(tmp_path: Path) -> None:
    row = {"id": "1", "label": "a", "prediction": None, "probabilities": None, "answer": "?"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    summary = summarize_predictions(tmp_path / "p.jsonl")
    assert summary.bins is None and summary.errors == []


@pytest.mark.parametrize("line", ["{", "[]", '{"id": 1}', '{"label": "a", "prediction": "b", "probabilities": 3}'])
def test_invalid_line_is_reported_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"p\.jsonl, line 1 is not a prediction"):
        summarize_predictions(tmp_path / "p.jsonl")
