"""Studies from their file to their table: kept, resumed and failed cells, and the numbers of the table."""

import csv
import io
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
import yaml

import toolkit
from tests.conftest import ROOT
from toolkit.errors import RecipeError, StudyError
from toolkit.studies.cells import make_cells
from toolkit.studies.loading import load_study
from toolkit.studies.runner import CellRunner
from toolkit.studies.study import run_study
from toolkit.studies.study_folder import CellState, StudyFolder

WriteStudy = Callable[..., Path]
VARIANTS = [{"name": "LoRA"}, {"name": "rank 2", "overrides": {"lora.r": 2}}, {"name": "zero-shot", "model": "base"}]

CSV_OVERRIDES = {"data.columns": {}, "evaluation.baselines": False}


def write_csv(file: Path, rows: int) -> None:
    """Write a data file with this number of pairs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"Un chien {n} court.,Un animal {n} court.,entailment" for n in range(rows)]
    file.write_text("\n".join(["premise,hypothesis,label", *lines]), encoding="utf-8")


def test_table_matches_the_evaluations(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    path = write_study(
        variants=VARIANTS, evaluations={"dev": {}, "test": {"data": "embedded:nli-fr:test", "limit": 30}}
    )
    result = run_study(path, tmp_path / "out")
    assert in_process == ["lora-seed1", "lora-seed2", "rank-2-seed1", "rank-2-seed2"]
    by_variant = {(entry["variant"], entry["evaluation"]): entry for entry in result.results}
    baselines = [f"{name} (baseline)" for name in ("majority", "hypothesis-only", "TF-IDF pair")]
    assert list(by_variant) == [
        *((variant["name"], data) for variant in VARIANTS for data in ("dev", "test")),
        *((name, data) for data in ("dev", "test") for name in baselines),
    ]
    lora = by_variant["LoRA", "test"]
    evaluations = [toolkit.open_run(tmp_path / "out" / "runs" / f"lora-seed{seed}").evaluations for seed in (1, 2)]
    accuracies = [next(e.accuracy for e in run if e.n == 30 and e.metrics["model"] == "adapter") for run in evaluations]
    assert lora["accuracy_by_seed"] == accuracies and lora["accuracy"] == pytest.approx(np.mean(accuracies))
    assert lora["seeds"] == [1, 2] and lora["n"] == 30 and lora["trained_rows"] == 48
    assert lora["peak_memory_bytes"] > 0 and lora["train_seconds"] > 0
    zero_shot = by_variant["zero-shot", "test"]
    assert zero_shot["seeds"] == [1] and zero_shot["train_seconds"] is None and zero_shot["nll"] > 0
    assert lora["against_first"] is None
    tests = [entry["against_first"] for entry in result.results if entry["variant"] != "LoRA"]
    assert all(test["holm_p_value"] >= test["p_value"] for test in tests) and len(tests) == 10
    lines = list(csv.DictReader((tmp_path / "out" / "study.csv").open(encoding="utf-8")))
    assert [line["variant"] for line in lines] == [variant for variant, _ in by_variant]
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


def test_deleted_evaluation_is_rerun(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    import shutil

    run_study(write_study(), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "lora-seed2" / "eval" / "adapter")
    in_process.clear()
    assert run_study(write_study(), tmp_path / "out").results[0]["seeds"] == [1, 2]
    assert in_process == ["lora-seed2"]


def test_changed_evaluation_is_rerun(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    """The names of variant and evaluation are the same, but not the rows, so old numbers must not be kept."""
    data = {"data": "embedded:nli-fr:test", "limit": 12}
    run_study(write_study(seeds=[1], evaluations={"a": data}), tmp_path / "out")
    in_process.clear()
    changed = run_study(write_study(seeds=[1], evaluations={"a": data | {"limit": 18}}), tmp_path / "out")
    assert in_process == ["lora-seed1"] and changed.results[0]["n"] == 18


def test_changed_data_file_is_evaluated_again(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    """The path stays the same while the rows change. The last contents equal the first, whose results were replaced."""
    file = tmp_path / "more.csv"
    study = write_study(seeds=[1], evaluations={"own": {}, "more": {"data": str(file)}}, overrides=CSV_OVERRIDES)
    counts, started = [], []
    for rows in (6, 6, 9, 6):
        write_csv(file, rows)
        result = run_study(study, tmp_path / "out")
        counts += [
            entry["n"] for entry in result.results if entry["evaluation"] == "more" and entry["variant"] == "LoRA"
        ]
        started.append(in_process.copy())
        in_process.clear()
    assert counts == [6, 6, 9, 6] and started == [["lora-seed1"], [], ["lora-seed1"], ["lora-seed1"]]


def test_learning_curve_of_a_study(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    result = run_study(write_study(train_sizes=[12, 24, 48], seeds=[1]), tmp_path / "out")
    assert [entry["train_size"] for entry in result.results if entry["variant"] == "LoRA"] == [12, 24, 48]
    (curve,) = result.record["learning_curves"]
    assert curve["sizes"] == [entry["trained_rows"] for entry in result.results[:3]] and len(curve["accuracies"]) == 3
    assert "ten times the rows" in result.report() and "Learning curves" in result.page.read_text(encoding="utf-8")
    # Three steps teach the tiny model nothing.
    assert "is not measurably more accurate than" in result.report()
    assert "Trained on 12, 24 and 48 rows" in result.page.read_text(encoding="utf-8")


def test_failed_cell_does_not_stop_the_rest(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import toolkit.studies.cell_execution as cell_execution

    train = cell_execution._train_and_evaluate

    def fail_once(folder: Any, specification: dict[str, Any], state: Any) -> None:
        if specification["name"] == "lora-seed1" and in_process.count("lora-seed1") == 1:
            raise toolkit.TrainingError("The loss is NaN.", hint="Lower the rate.")
        train(folder, specification, state)

    monkeypatch.setattr(cell_execution, "_train_and_evaluate", fail_once)
    with pytest.raises(StudyError, match=r"1 of 2 cells failed: lora-seed1\.") as error:
        run_study(write_study(), tmp_path / "out")
    assert error.value.exit_code == 1
    page = (tmp_path / "out" / "study.html").read_text(encoding="utf-8")
    assert "lora-seed1: failed. The loss is NaN. Lower the rate." in page
    result = run_study(write_study(), tmp_path / "out")
    assert in_process == ["lora-seed1", "lora-seed2", "lora-seed1"]
    assert [cell["status"] for cell in result.record["cells"]] == ["completed", "completed"]


def test_killed_study_resumes_to_the_same_table(write_study: WriteStudy, tmp_path: Path) -> None:
    """SIGKILL ends the study during training; its cell saves a checkpoint and stops, and the command resumes both."""
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


def test_changed_rows_of_a_finished_run_are_refused(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str]
) -> None:
    """A seed that is added later must not be trained on other rows than the earlier ones."""
    rows = tmp_path / "train.csv"
    lines = [
        f"Le chat {n} dort.,Un animal {n} dort.,{('entailment', 'neutral', 'contradiction')[n % 3]}" for n in range(48)
    ]
    rows.write_text("\n".join(["premise,hypothesis,label", *lines]), encoding="utf-8")
    overrides = {"data.train": {"path": str(rows)}, "data.columns": {}}
    run_study(write_study(seeds=[1], overrides=overrides), tmp_path / "out")
    rows.write_text(rows.read_text(encoding="utf-8").replace("chat", "chien"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"lora-seed1: the rows of data\.train have changed"):
        run_study(write_study(overrides=overrides), tmp_path / "out")
    assert in_process == ["lora-seed1"]


def test_problem_of_one_evaluation_keeps_the_page(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str]
) -> None:
    data = {"dev": {}, "test": {"data": "embedded:nli-fr:test", "limit": 12}}
    run_study(write_study(seeds=[1], evaluations=data), tmp_path / "out")
    (evaluation,) = (tmp_path / "out" / "runs" / "lora-seed1" / "eval").glob("adapter@*")
    metrics = evaluation / "metrics.json"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace('"n": 12', '"n": 13'), encoding="utf-8")
    with pytest.raises(StudyError, match=r"lora-seed1, test: .*metrics\.json"):
        run_study(write_study(seeds=[1], evaluations=data), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert {entry["evaluation"] for entry in record["results"]} == {"dev"} and len(record["problems"]) == 1
    assert "Results that are missing here" in (tmp_path / "out" / "study.html").read_text(encoding="utf-8")


def test_unfinished_largest_size_is_not_replaced(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variant with all rows must not be compared with the first variant's run on a few of them."""
    import toolkit.studies.cell_execution as cell_execution

    train = cell_execution._train_and_evaluate

    def fail(folder: Any, specification: dict[str, Any], state: Any) -> None:
        if specification["name"].startswith("lora-n48"):
            raise toolkit.TrainingError("The loss is NaN.")
        train(folder, specification, state)

    monkeypatch.setattr(cell_execution, "_train_and_evaluate", fail)
    variants = [{"name": "LoRA"}, {"name": "rank 2", "overrides": {"lora.r": 2}}]
    with pytest.raises(StudyError, match="lora-n48-seed1"):
        run_study(write_study(variants=variants, train_sizes=[12, 48], seeds=[1]), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert [(entry["variant"], entry["train_size"]) for entry in record["results"]] == [
        ("LoRA", 12), ("rank 2", 12), ("rank 2", 48)
    ]  # fmt: skip
    assert all(entry["against_first"] is None for entry in record["results"])


def test_files_with_the_same_name_are_kept_apart(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str]
) -> None:
    evaluations = {}
    for version, count in (("v1", 6), ("v2", 9)):
        write_csv(file := tmp_path / version / "fr" / "test.csv", count)
        evaluations[version] = {"data": str(file)}
    result = run_study(write_study(seeds=[1], evaluations=evaluations, overrides=CSV_OVERRIDES), tmp_path / "out")
    assert {entry["evaluation"]: entry["n"] for entry in result.results if entry["variant"] == "LoRA"} == {
        "v1": 6,
        "v2": 9,
    }


def test_threads_of_a_started_cell_never_change(write_study: WriteStudy, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "out")
    folder.create("small")
    folder.save_state("lora-seed1", CellState(threads=7))
    cells = make_cells(load_study(write_study(seeds=[1])))
    cell = cells[0]
    started: list[dict[str, str]] = []

    class Process:
        def __init__(self, *_: Any, env: dict[str, str], **__: Any) -> None:
            started.append(env)
            self.stdin, self.returncode = io.StringIO(), 130

        def wait(self, timeout: float | None = None) -> int:
            return 130

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Process)
        message = CellRunner(folder, 2).run_cell(cell)
    assert started[0]["OMP_NUM_THREADS"] == "7" and folder.state("lora-seed1").threads == 7
    # A cell that something else has stopped has failed, unless the study itself is stopping.
    assert "failed: The process ended with a signal from outside" in message
    assert folder.state("lora-seed1").status == "failed"


def test_shipped_quickstart_study_at_a_reduced_size(tmp_path: Path) -> None:
    """The shipped study with fewer seeds, steps and rows: all its variants and evaluations."""
    source = ROOT / "studies" / "quickstart_seeds.yaml"
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    values |= {"recipe": str(ROOT / "recipes" / "quickstart.yaml"), "seeds": [1, 2]}
    for evaluation in values["evaluations"].values():
        evaluation["limit"] = 24
    study = tmp_path / source.name
    study.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), study, "--output-dir", tmp_path / "out"]
    subprocess.run([*command, "--set", "training.max_steps=1", "--jobs", "2"], check=True, cwd=tmp_path)
    record = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    seeds = {(entry["variant"], entry["evaluation"]): len(entry["seeds"]) for entry in record["results"]}
    names = [variant["name"] for variant in values["variants"]]
    expected = {(name, rows): 1 if name == "zero-shot" else 2 for name in names for rows in values["evaluations"]}
    assert seeds.items() >= expected.items() and all(cell["status"] == "completed" for cell in record["cells"])
