"""Evaluations that are loaded from a run's folder."""

from pathlib import Path
from typing import Any

from tests.evaluation.run_files import HOSTILE, LABELS, make_run, write_evaluation
from toolkit.evaluation.evaluation import (
    Evaluation,
    base_zero_shot,
    load_evaluation,
    load_evaluations,
    with_base_zero_shot,
)
from toolkit.runs.trained_run import TrainedRun

BASE: dict[str, Any] = {"model": "base", "mode": "constrained", "data": {"fingerprint": "f"}, "accuracy": 0.4}


def evaluation(name: str, **metrics: Any) -> Evaluation:
    return Evaluation(name, Path(name), BASE | metrics)


def test_zero_shot_baseline_needs_a_plain_evaluation() -> None:
    """Only an evaluation of the base on the same rows, constrained and without shots, gives the baseline."""
    others = [
        evaluation("base-free", mode="free"),
        evaluation("base-shots4", shots=4),
        evaluation("base@rows", overrides={"task.system": "x", "data.eval.path": "y"}),
        evaluation("adapter", model="adapter"),
    ]
    assert base_zero_shot(others, "f") == {}
    plain = evaluation("base@x-limit3", overrides={"data.eval.limit": 3, "evaluation.batch_tokens": 9})
    assert base_zero_shot([*others, plain], "f") == {"base_zero_shot": 0.4}
    assert base_zero_shot([*others, plain], "g") == base_zero_shot([*others, plain], None) == {}


def test_zero_shot_baseline_is_added_later() -> None:
    """The base's accuracy becomes a baseline of the adapter even if the base was evaluated after it."""
    adapter = evaluation("adapter", model="adapter", baselines={"random": 1 / 3, "base_zero_shot": 0.2})
    without = evaluation("merged", model="merged", baselines={})
    evaluations = with_base_zero_shot([adapter, without, evaluation("base", baselines={"random": 1 / 3})])
    assert evaluations[0].metrics["baselines"] == {"random": 1 / 3, "base_zero_shot": 0.4}
    assert evaluations[1] is without, "baselines are not added if they were turned off"
    assert evaluations[2].metrics["baselines"] == {"random": 1 / 3}, "the base is not a baseline for itself"


def test_attributes_match_metrics_json(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = write_evaluation(run, "adapter", warnings=["Beware."])
    result = load_evaluation(run.eval / "adapter")
    assert (result.name, result.folder, result.metrics) == ("adapter", run.eval / "adapter", metrics)
    assert (result.accuracy, list(result.accuracy_interval)) == (metrics["accuracy"], metrics["accuracy_ci95"])
    assert (result.macro_f1, list(result.macro_f1_interval)) == (metrics["macro"]["f1"], metrics["macro_f1_ci95"])
    assert (result.nll, result.ece, result.brier) == (metrics["nll"], metrics["ece"], metrics["brier"])
    assert (result.n, result.labels, result.chance) == (90, list(LABELS), 1 / 3)
    assert (result.baselines, result.warnings) == (metrics["baselines"], ["Beware."])
    assert (result.mode, result.shots, result.source, result.fingerprint) == (
        "constrained",
        0,
        "embedded:nli-fr:dev",
        "f",
    )
    assert repr(result) == f"Evaluation(adapter: accuracy {metrics['accuracy']:.4f} on 90 rows)"


def test_report_shows_metrics_and_warnings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = write_evaluation(run, "adapter", calibration=None, warnings=[HOSTILE + "\x1b[31m"])
    text = load_evaluation(run.eval / "adapter").report()
    for label, row in metrics["per_label"].items():
        assert f"{row['precision']:.4f}    {row['recall']:.4f}    {row['f1']:.4f}" in text and label in text
    low, high = metrics["accuracy_ci95"]
    assert f"accuracy {metrics['accuracy']:.2%} [{low:.2%}, {high:.2%}] on 90 rows; invalid 0; nll " in text
    assert f"WARNING: {HOSTILE}" in text and "\x1b" not in text


def test_unfinished_evaluations_are_not_loaded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert load_evaluations(TrainedRun.open(run.path)) == []
    for name in ("base", "adapter", ".adapter.1.partial"):
        write_evaluation(run, name, n=9)
    assert [evaluation.name for evaluation in load_evaluations(TrainedRun.open(run.path))] == ["adapter", "base"]
    loaded = load_evaluations(TrainedRun.open(run.path), exclude=run.eval / "adapter")
    assert [evaluation.name for evaluation in loaded] == ["base"]
