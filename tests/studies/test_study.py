"""Studies from their file to their table: kept, resumed and failed cells, and the numbers of the table."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.conftest import ROOT
from toolkit.errors import StudyError
from toolkit.studies.study import run_study

WriteStudy = Callable[..., Path]
ROWS = [{"name": "LoRA"}, {"name": "rank 2", "overrides": {"lora.r": 2}}, {"name": "zero-shot", "model": "base"}]


def test_table_matches_the_evaluations(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    path = write_study(rows=ROWS, evaluations={"dev": {}, "test": {"data": "embedded:nli-fr:test", "limit": 30}})
    result = run_study(path, tmp_path / "out")
    assert in_process == ["lora-seed1", "lora-seed2", "rank-2-seed1", "rank-2-seed2"]
    by_row = {(entry["row"], entry["evaluation"]): entry for entry in result.results}
    baselines = [f"{name} (baseline)" for name in ("majority", "hypothesis-only", "TF-IDF pair")]
    assert list(by_row) == [
        *((row["name"], data) for row in ROWS for data in ("dev", "test")),
        *((name, data) for data in ("dev", "test") for name in baselines),
    ]
    lora = by_row["LoRA", "test"]
    evaluations = [toolkit.open_run(tmp_path / "out" / "runs" / f"lora-seed{seed}").evaluations for seed in (1, 2)]
    accuracies = [next(e.accuracy for e in run if e.n == 30 and e.metrics["model"] == "adapter") for run in evaluations]
    assert lora["accuracy_by_seed"] == accuracies and lora["accuracy"] == pytest.approx(np.mean(accuracies))
    assert lora["seeds"] == [1, 2] and lora["n"] == 30 and lora["trained_rows"] == 48
    assert lora["peak_memory_bytes"] > 0 and lora["train_seconds"] > 0
    zero_shot = by_row["zero-shot", "test"]
    assert zero_shot["seeds"] == [1] and zero_shot["train_seconds"] is None and zero_shot["nll"] > 0
    assert lora["against_first"] is None
    tests = [entry["against_first"] for entry in result.results if entry["row"] != "LoRA"]
    assert all(test["holm_p_value"] >= test["p_value"] for test in tests) and len(tests) == 10
    lines = list(csv.DictReader((tmp_path / "out" / "study.csv").open(encoding="utf-8")))
    assert [line["row"] for line in lines] == [row for row, _ in by_row]
    assert float(lines[1]["accuracy"]) == lora["accuracy"]
    assert json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8")) == result.record
    page = result.page.read_text(encoding="utf-8")
    assert "zero-shot" in page and "runs/lora-seed1/report.html" in page and "not complete" not in page
    assert "LoRA" in result.report() and "(Holm)" in result.report()


def test_finished_cells_are_kept(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    first = run_study(write_study(), tmp_path / "out")
    run_json = (tmp_path / "out" / "runs" / "lora-seed1" / "run.json").read_bytes()
    in_process.clear()
    again = run_study(write_study(), tmp_path / "out")
    assert in_process == [] and again.results == first.results
    more = run_study(write_study(seeds=[1, 2, 3]), tmp_path / "out")
    assert in_process == ["lora-seed3"] and more.results[0]["seeds"] == [1, 2, 3]
    assert (tmp_path / "out" / "runs" / "lora-seed1" / "run.json").read_bytes() == run_json


def test_removed_evaluation_is_made_again(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    import shutil

    run_study(write_study(), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "lora-seed2" / "eval" / "adapter")
    in_process.clear()
    assert run_study(write_study(), tmp_path / "out").results[0]["seeds"] == [1, 2]
    assert in_process == ["lora-seed2"]


def test_learning_curve_of_a_study(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    result = run_study(write_study(train_rows=[12, 24, 48], seeds=[1]), tmp_path / "out")
    assert [entry["train_rows"] for entry in result.results if entry["row"] == "LoRA"] == [12, 24, 48]
    (curve,) = result.record["learning_curves"]
    assert curve["sizes"] == [entry["trained_rows"] for entry in result.results[:3]] and len(curve["accuracies"]) == 3
    assert "ten times the rows" in result.report() and "Learning curves" in result.page.read_text(encoding="utf-8")


def test_failed_cell_does_not_stop_the_rest(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import toolkit.studies.cell_work as cell_work

    train = cell_work._train_and_evaluate

    def fail_once(folder: Any, specification: dict[str, Any], state: Any) -> None:
        if specification["name"] == "lora-seed1" and in_process.count("lora-seed1") == 1:
            raise toolkit.TrainingError("The loss is NaN.", hint="Lower the rate.")
        train(folder, specification, state)

    monkeypatch.setattr(cell_work, "_train_and_evaluate", fail_once)
    with pytest.raises(StudyError, match=r"1 of 2 cells failed: lora-seed1\.") as error:
        run_study(write_study(), tmp_path / "out")
    assert error.value.exit_code == 1
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "lora-seed1: failed. The loss is NaN. Lower the rate." in page
    result = run_study(write_study(), tmp_path / "out")
    assert in_process == ["lora-seed1", "lora-seed2", "lora-seed1"]
    assert [cell["status"] for cell in result.record["cells"]] == ["completed", "completed"]


def test_killed_study_ends_in_the_same_table(write_study: WriteStudy, tmp_path: Path) -> None:
    """Cells in processes of their own: one is killed with its study in the middle of training, and both resume."""
    path, out = write_study(seeds=[1]), tmp_path / "out"
    overrides = ["--set", "training.max_steps=40", "--set", "training.save_steps=5"]
    command = [sys.executable, "scripts/study.py", str(path), "--output-dir", str(out), *overrides]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    checkpoints = out / "runs" / "lora-seed1" / "checkpoints"
    deadline = time.monotonic() + 180
    while not list(checkpoints.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    log = out / "logs" / "lora-seed1.log"
    while "interrupted" not in log.read_text(encoding="utf-8") and time.monotonic() < deadline:
        time.sleep(0.1)  # the cell notices that the study is gone, and stops
    assert "interrupted" in log.read_text(encoding="utf-8")
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    resumed = json.loads((out / "study.json").read_text(encoding="utf-8"))
    result = run_study(path, tmp_path / "again", overrides=["training.max_steps=40", "training.save_steps=5"])
    costs = ("train_seconds", "peak_memory_bytes", "rows_per_second")
    assert [{**entry, **dict.fromkeys(costs)} for entry in resumed["results"]] == [
        {**entry, **dict.fromkeys(costs)} for entry in result.results
    ]
    weights = [
        folder / "runs" / "lora-seed1" / "adapter" / "adapter_model.safetensors" for folder in (out, result.folder)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes(), os.environ.get("OMP_NUM_THREADS")
