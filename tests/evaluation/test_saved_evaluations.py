"""A run's results, read back."""

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

BASE: dict[str, Any] = {"model": "base", "mode": "constrained", "data": {"fingerprint": "f"}, "accuracy": 0.4}


def evaluation(name: str, **metrics: Any) -> Evaluation:
    return Evaluation(name, Path(name), BASE | metrics)


def test_the_base_models_zero_shot_is_its_plain_evaluation_of_the_same_rows() -> None:
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


def test_a_base_that_was_measured_after_the_adapter_stands_beside_it_all_the_same() -> None:
    adapter = evaluation("adapter", model="adapter", baselines={"random": 1 / 3, "base_zero_shot": 0.2})
    without = evaluation("merged", model="merged", baselines={})
    found = with_base_zero_shot([adapter, without, evaluation("base", baselines={"random": 1 / 3})])
    assert found[0].metrics["baselines"] == {"random": 1 / 3, "base_zero_shot": 0.4}
    assert found[1] is without, "baselines that were not asked for are not made up"
    assert found[2].metrics["baselines"] == {"random": 1 / 3}, "the base is no baseline of itself"


def test_figures_are_those_of_metrics_json(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = write_evaluation(run, "adapter", warnings=["Beware."])
    one = load_evaluation(run.eval / "adapter")
    assert (one.name, one.folder, one.metrics) == ("adapter", run.eval / "adapter", metrics)
    assert (one.accuracy, list(one.accuracy_interval)) == (metrics["accuracy"], metrics["accuracy_ci95"])
    assert (one.macro_f1, list(one.macro_f1_interval)) == (metrics["macro"]["f1"], metrics["macro_f1_ci95"])
    assert (one.nll, one.ece, one.brier) == (metrics["nll"], metrics["ece"], metrics["brier"])
    assert (one.n, one.labels, one.chance) == (90, list(LABELS), 1 / 3)
    assert (one.baselines, one.warnings) == (metrics["baselines"], ["Beware."])
    assert (one.mode, one.shots, one.source, one.fingerprint) == ("constrained", 0, "embedded:nli-fr:dev", "f")
    assert repr(one) == f"Evaluation(adapter: accuracy {metrics['accuracy']:.4f} of 90 rows)"


def test_an_evaluation_reports_its_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    metrics = write_evaluation(run, "adapter", calibration=None, warnings=[HOSTILE + "\x1b[31m"])
    text = load_evaluation(run.eval / "adapter").report()
    for label, row in metrics["per_label"].items():
        assert f"{row['precision']:.4f}    {row['recall']:.4f}    {row['f1']:.4f}" in text and label in text
    low, high = metrics["accuracy_ci95"]
    assert f"accuracy {metrics['accuracy']:.2%} [{low:.2%}, {high:.2%}] on 90 rows; invalid 0; nll " in text
    assert f"WARNING: {HOSTILE}" in text and "\x1b" not in text


def test_evaluations_are_listed_without_one_and_without_unfinished_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert load_evaluations(run) == []
    for name in ("base", "adapter", ".adapter.1.partial"):
        write_evaluation(run, name, n=9)
    assert [one.name for one in load_evaluations(run)] == ["adapter", "base"]
    assert [one.name for one in load_evaluations(run, exclude=run.eval / "adapter")] == ["base"]
