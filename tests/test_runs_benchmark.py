"""benchmarks/runs.py: means over seeds and paired differences, checked against numbers computed by hand."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.evaluation.run_files import LABELS, make_predictions, make_run, write_predictions
from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.errors import DataError
from toolkit.evaluation.baseline_rows import baseline_rows
from toolkit.evaluation.comparison import mcnemar_exact
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.prediction_files import read_evaluation
from toolkit.recipe.inputs import NLI_INPUTS
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
    read_result = importlib.import_module("run_folders").read_result
    assert read_result(evaluation) is not None
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    # Other rows belong to the same experiment. Another dtype is another experiment, and a limit leaves out rows.
    is_result = {"data.eval.path": True, "model.dtype": False, "data.eval.limit": False}
    for key, expected in is_result.items():
        write_json(evaluation / "metrics.json", metrics | {"overrides": {key: "x"}})
        assert (read_result(evaluation) is not None) is expected
    assert [row[2] for row in runs.table(entries)] == ["protocol", "tokens", "labels"]


def write_model_run(folder: Path, seed: int, answers: dict[str, np.ndarray]) -> None:
    """Write a run on JSON Lines files with an evaluation per model, given as right or wrong answers for each row."""
    data = folder.parents[2] / "rows"
    data.mkdir(exist_ok=True)
    clues = {"entailment": "oui", "neutral": "peut-être", "contradiction": "jamais"}
    rows = [
        {"id": str(i), "premise": f"p{i // 3}", "hypothesis": f"h{i} {clues[LABELS[i % 3]]}", "label": LABELS[i % 3]}
        for i in range(60)
    ]
    for name, part in (("train", rows[:30]), ("test", rows[30:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (data / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    test = str(data / "test.jsonl")
    run = make_run(folder, data={"train": {"path": str(data / "train.jsonl")}, "eval": {"path": test}})
    costs = {"timings": {"train_seconds": 10.0}, "peak_memory_bytes": 3_000_000_000, "trainable_parameters": 1000}
    examples = [Example(row["id"], {key: row[key] for key in NLI_INPUTS}, row["label"]) for row in rows]
    train, examples = examples[:30], examples[30:]
    rows_record = {**run.record["data"], "train": {**run.record["data"]["train"], "fingerprint": fingerprint(train)}}
    write_json(run.run_json, run.record | {"seed": seed, "data": rows_record} | costs)
    for name, correct in answers.items():
        scores = np.zeros((30, 3))
        for i, is_correct in enumerate(correct):
            scores[i, LABELS.index(examples[i].label) - (not is_correct)] = 1.0 + (name == "gguf-q8_0")
        predictions = Predictions(LABELS, [LABELS[i] for i in scores.argmax(axis=1)], scores)
        model, _, shots = name.partition("@shots")
        metrics = {
            "n": 30, "inputs": list(NLI_INPUTS), "labels": list(LABELS), "mode": "constrained", "model": model,
            "shots": int(shots or 0), "data": {"source": test, "fingerprint": fingerprint(examples)},
            "speed": {"examples_per_second": 5.0}, **compute_metrics(examples, predictions),
        }  # fmt: skip
        (run.eval / name).mkdir(parents=True)
        write_json(run.eval / name / "metrics.json", metrics)
        write_predictions(run.eval / name / "predictions.jsonl", examples, predictions)


def test_baselines_of_changed_rows_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    write_model_run(folder / "study" / "model" / "seed-1", 1, {"adapter": np.arange(30) < 24})
    rows = read_evaluation(folder / "study" / "model" / "seed-1" / "eval" / "adapter")
    assert set(baseline_rows(rows)) == {"majority", "hypothesis-only", "TF-IDF pair"}
    test = folder / "rows" / "test.jsonl"
    test.write_text(test.read_text(encoding="utf-8").replace("h45", "other words"), encoding="utf-8")
    with pytest.raises(DataError, match=r"rows of data\.eval have changed"):
        baseline_rows(rows)


def test_reference_is_compared_with_all_models(tmp_path: Path) -> None:
    folder, out, row = tmp_path / "runs", tmp_path / "out", np.arange(30)
    folder.mkdir()
    others = {"base": row < 10, "base@shots4": row < 15, "gguf-q8_0": row < 21}
    write_model_run(folder / "study" / "large" / "seed-1", 1, {"adapter": row < 24, **others})
    write_model_run(folder / "study" / "large" / "seed-2", 2, {"adapter": row < 27, "base": row < 10})
    write_model_run(folder / "study" / "small" / "seed-1", 1, {"adapter": row % 2 == 0})
    command = [sys.executable, "benchmarks/runs.py", str(folder), "--reference", "large", "--out", str(out)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    entries = json.loads((out / "runs.json").read_text(encoding="utf-8"))
    accuracies = {entry["model"]: entry["accuracy"] for entry in entries if entry["seed"] == "mean"}
    expected = {
        "large": 0.85, "large zero-shot": 1 / 3, "large 4-shot": 0.5, "large q8_0": 0.7, "small": 0.5,
        "majority": 1 / 3, "hypothesis-only": 1.0, "TF-IDF pair": 1.0,
    }  # fmt: skip
    assert accuracies == pytest.approx(expected)
    seeds = {entry["model"]: entry["seed"] for entry in entries if entry["seed"] != "mean"}
    assert seeds["large zero-shot"] is None and seeds["large 4-shot"] == 1 and seeds["majority"] is None
    (zero_shot,) = [entry for entry in entries if entry["model"] == "large zero-shot" and entry["seed"] == "mean"]
    assert zero_shot["seeds"] == 1  # both runs evaluated the same model
    (against,) = [entry["against_models"] for entry in entries if "against_models" in entry]
    differences = {model: 0.85 - accuracy for model, accuracy in expected.items() if model != "large"}
    differences["large q8_0"] = 0.8 - 0.7  # compared with the run that was exported, seed 1
    assert {other["model"]: other["difference"] for other in against} == pytest.approx(differences)
    assert all(other["interval"][0] <= other["difference"] <= other["interval"][1] for other in against)
    # The file disagrees with the adapter of its seed in 3 of 30 rows, where the predicted label rises from
    # 1 / (e + 2) to e² / (e² + 2).
    (gguf,) = [entry for entry in entries if entry["model"] == "large q8_0" and entry["seed"] == 1]
    assert gguf["agreement"] == pytest.approx(0.9)
    assert gguf["largest_probability_change"] == pytest.approx(np.exp(2) / (np.exp(2) + 2) - 1 / (np.e + 2), abs=1e-12)
    for cell in ("85.00%", "large zero-shot", "2 seeds", "90.00%", "3.00", "+35.00 [", "p (Holm)"):
        assert cell in finished.stdout
    # Without some of the runs, the second command keeps their results and computes the same differences.
    shutil.rmtree(folder / "study" / "small")
    shutil.rmtree(folder / "study" / "large" / "seed-1")
    write_model_run(folder / "study" / "new" / "seed-1", 1, {"adapter": row < 3})
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "4 results of earlier runs are kept" in again.stdout, again.stderr
    kept = [entry for entry in json.loads((out / "runs.json").read_text(encoding="utf-8")) if entry["model"] != "new"]
    for entry in (*entries, *kept):
        if "against_models" in entry:
            entry["against_models"] = [other for other in entry["against_models"] if other["model"] != "new"]
            entry["against_models"].sort(key=lambda other: other["model"])
    assert sorted(map(str, kept)) == sorted(map(str, entries))
    stored = np.load(out / "predictions.npz")
    texts = {name.rpartition("/")[2] for name in stored if stored[name].ndim and stored[name].dtype.kind not in "ib"}
    assert texts == {"labels", "inputs"}  # no row's text


def test_accuracies_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    draw = importlib.import_module("figures").real_models
    assert draw(tmp_path) is None
    entry = {"protocol": "study", "seed": "mean", "interval": [0.6, 0.8], "accuracy": 0.7}
    entries = [entry | {"model": f"model {data}", "data": data} for data in ("xnli_fr test", "sick_fr test")]
    write_json(tmp_path / "real" / "runs.json", entries)
    drawing = draw(tmp_path)
    assert "model xnli_fr test" in drawing and "Llama 3.2 1B in the study" in drawing and "sick_fr" not in drawing
    assert drawing == draw(tmp_path)


def test_missing_runs_are_named(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/runs.py", str(tmp_path), "--out", str(tmp_path / "out")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 2 and "has no evaluated runs" in finished.stderr
