"""The files of an evaluation: results are complete under their final name before a plot is drawn."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.run_files import make_predictions
from toolkit.evaluation import evaluation_files
from toolkit.evaluation.evaluation_files import write_evaluation
from toolkit.evaluation.invalid_answers import invalid_answer_metrics
from toolkit.evaluation.metrics import compute_metrics
from toolkit.evaluation.text_report import text_report


def write(folder: Path, **fields: Any) -> dict[str, Any]:
    examples, predictions = make_predictions(60)
    metrics: dict[str, Any] = {
        "n": 60, "labels": list(predictions.labels), "mode": "constrained", "model": "adapter", "calibration": None,
        "baselines": {}, "warnings": [], "speed": {"examples_per_second": 1.0},
        **compute_metrics(examples, predictions), **invalid_answer_metrics(examples, predictions),
    } | fields  # fmt: skip
    return write_evaluation(folder, examples, predictions, metrics, "a" * 64)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RESULTS, PLOTS = ["metrics.json", "predictions.jsonl"], ["confusion_matrix.png", "reliability.png"]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("no font\nat all"), OSError(28, "No space left")])
def test_failed_plot_does_not_lose_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    write(tmp_path / "adapter", model="older")
    assert names(tmp_path / "adapter") == sorted(RESULTS + PLOTS)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(evaluation_files, "plot_confusion_matrix", fail)
    with caplog.at_level(logging.WARNING):
        metrics = write(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "metrics.json").read_text(encoding="utf-8")) == metrics
    assert names(tmp_path / "adapter") == [*RESULTS, "reliability.png"], "and no plot of the older evaluation"
    (record,) = caplog.records
    assert f"{tmp_path / 'adapter' / 'confusion_matrix.png'} was not drawn" in record.message
    assert "\n" not in record.message and "The results are complete without it." in record.message


def test_missing_glyphs_are_not_reported_one_by_one(tmp_path: Path) -> None:
    """The bundled font has no Chinese characters."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "adapter", model="矛盾")
    assert names(tmp_path / "adapter") == sorted(RESULTS + PLOTS)


def test_results_come_before_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it draws, here by an exception that nothing may catch, leaves the results."""

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        assert names(tmp_path / "adapter") == RESULTS
        raise Killed

    monkeypatch.setattr(evaluation_files, "plot_confusion_matrix", kill)
    with pytest.raises(Killed):
        write(tmp_path / "adapter")
    assert names(tmp_path / "adapter") == RESULTS


def test_text_report_of_many_labels_is_short(tmp_path: Path) -> None:
    metrics = write(tmp_path / "adapter")
    labels = [f"label-{i}" + "x" * 200 * (i == 3) for i in range(500)]
    scores = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    slices = {"id": {str(i): {"n": 1, "accuracy": i % 2, "macro_f1": i % 2} for i in range(5000)}}
    many = {
        "labels": labels, "per_label": dict.fromkeys(labels, scores), "slices": slices,
        "confusion_matrix": [[0] * 500] * 500, "invalid_by_label": {},
    }  # fmt: skip
    lines = text_report(metrics | many).splitlines()
    assert len(lines) < 90 and max(map(len, lines)) < 150
    assert "The table shows the 30 of 500 labels with the most errors; metrics.json has all." in lines
    assert "id    rows  accuracy  macro F1 (30 of 5,000 values, lowest accuracy first)" in lines


def test_text_report_follows_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import classification_report

    examples, predictions = make_predictions(60)
    expected = classification_report([row.label for row in examples], predictions.predicted, labels=predictions.labels,
                                     digits=4)  # fmt: skip
    metrics = write(tmp_path / "adapter")
    assert [line.split() for line in text_report(metrics).splitlines()[:9]] == [
        line.split() for line in expected.splitlines()
    ]


def test_absent_labels_have_no_score_in_reports(tmp_path: Path) -> None:
    scores = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    metrics = write(tmp_path / "adapter")
    metrics["per_label"]["neutral"] = scores
    assert ["neutral", "0.0000", "-", "-", "0"] in [line.split() for line in text_report(metrics).splitlines()]
