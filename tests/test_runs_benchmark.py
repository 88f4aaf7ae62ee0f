"""benchmarks/runs.py: means over seeds and paired differences, checked against numbers computed by hand."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.evaluation.run_files import LABELS, make_predictions, make_run, write_predictions
from toolkit.evaluation.comparison import mcnemar_exact
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.utils.atomic_io import write_json


def write_run(folder: Path, seed: int, wrong: int) -> np.ndarray:
    """Write a run whose evaluation differs from the others in its first `wrong` rows; return its correct rows."""
    run = make_run(folder)
    write_json(run.run_json, run.record | {"seed": seed, "timings": {"train_seconds": 10.0 * seed}})
    examples, predictions = make_predictions(60)
    scores = np.array(predictions.log_likelihoods)
    scores[:wrong] = -scores[:wrong]
    predictions = Predictions(LABELS, [LABELS[i] for i in scores.argmax(axis=1)], scores)
    metrics = {
        "n": 60, "inputs": ["premise", "hypothesis"], "labels": list(LABELS), "mode": "constrained", "model": "adapter",
        "data": {"source": "embedded:nli-fr:test", "fingerprint": "f"}, **compute_metrics(examples, predictions),
    }  # fmt: skip
    (run.eval / "adapter").mkdir(parents=True)
    write_json(run.eval / "adapter" / "metrics.json", metrics)
    write_predictions(run.eval / "adapter" / "predictions.jsonl", examples, predictions)
    return np.array([row.label for row in examples]) == np.array(predictions.predicted)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("runs")


def test_means_and_differences_of_protocols(tmp_path: Path, runs: Any) -> None:
    folder, out = tmp_path / "runs", tmp_path / "out"
    correct = {
        (protocol, seed): write_run(folder / protocol / "model" / f"seed-{seed}", seed, wrong)
        for protocol, wrongs in (("tokens", (0, 4)), ("labels", (20, 30)))
        for seed, wrong in enumerate(wrongs, 1)
    }
    command = [sys.executable, "benchmarks/runs.py", str(folder), "--baseline", "tokens", "--out", str(out)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    entries = json.loads((out / "runs.json").read_text(encoding="utf-8"))
    assert [(entry["protocol"], entry["seed"]) for entry in entries] == [
        ("labels", 1), ("labels", 2), ("labels", "mean"), ("tokens", 1), ("tokens", 2), ("tokens", "mean")
    ]  # fmt: skip
    for entry in entries[:2]:
        assert entry["accuracy"] == pytest.approx(correct["labels", entry["seed"]].mean())
        assert entry["model"] == "model" and entry["data"] == "nli-fr test" and entry["n"] == 60
    mean = entries[2]
    assert mean["accuracy"] == pytest.approx(np.mean([correct["labels", seed].mean() for seed in (1, 2)]))
    assert mean["train_seconds"] == 15.0 and mean["interval"][0] < mean["accuracy"] < mean["interval"][1]
    against = mean["against"]
    for position, seed in enumerate((1, 2)):
        ours, theirs = correct["labels", seed], correct["tokens", seed]
        assert against["by_seed"][position] == pytest.approx(ours.mean() - theirs.mean())
        assert against["mcnemar_p"][position] == mcnemar_exact(int((ours > theirs).sum()), int((theirs > ours).sum()))
    assert against["difference"] == pytest.approx(np.mean(against["by_seed"]))
    assert "against" not in entries[5]
    evaluation = folder / "tokens" / "model" / "seed-1" / "eval" / "adapter"
    assert runs.read_result(evaluation) is not None
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    # Other rows belong to the same experiment. Another dtype is another experiment, and a limit leaves out rows.
    is_result = {"data.eval.path": True, "model.dtype": False, "data.eval.limit": False}
    for key, expected in is_result.items():
        write_json(evaluation / "metrics.json", metrics | {"overrides": {key: "x"}})
        assert (runs.read_result(evaluation) is not None) is expected
    assert [row[2] for row in runs.table(entries)] == ["protocol", "tokens", "labels"]


def test_missing_runs_are_named(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/runs.py", str(tmp_path), "--out", str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 2 and "has no evaluated runs" in finished.stderr
