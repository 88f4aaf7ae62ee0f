"""Searches for hyperparameters: trials, finalists, pruning and continued searches."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError, StudyError
from toolkit.studies.cells import Cell
from toolkit.studies.loading import load_study
from toolkit.studies.runner import CellRunner
from toolkit.studies.schema import slug
from toolkit.studies.search import Search
from toolkit.studies.search_space import unique_name
from toolkit.studies.study import run_study
from toolkit.studies.study_folder import StudyFolder
from toolkit.utils.atomic_io import write_json

WriteStudy = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]
SPACE = {"lora.r": [2, 4], "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
SEARCH = {"space": SPACE, "trials": 3, "finalists": 1}
DEV = {"data.dev_share": 0.3, "training.eval_steps": 1}


def test_finalists_are_trained_with_all_seeds(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    path = write_study(overrides=DEV, search=SEARCH)
    result = run_study(path, tmp_path / "out")
    trials = result.record["search"]["trials"]
    assert [trial["state"] for trial in trials] == ["completed"] * 3
    assert [name for name in in_process if name.startswith("search-")] == [trial["cell"] for trial in trials]
    best = min(trials, key=lambda trial: trial["value"])
    log = tmp_path / "out" / "runs" / best["cell"] / "train_log.jsonl"
    assert best["value"] == json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["dev_nll"]
    finalist = next(entry for entry in result.results if entry["variant"].startswith("finalist, "))
    assert finalist["seeds"] == [1, 2] and finalist["against_first"]["holm_p_value"] <= 1
    (run,) = (tmp_path / "out" / "runs").glob("finalist-*-seed2")
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert f"r: {best['values']['lora.r']}\n" in recipe
    assert best["cell"] in result.page.read_text(encoding="utf-8")
    in_process.clear()
    assert run_study(path, tmp_path / "out").record["search"] == result.record["search"] and in_process == []


class FakeRunner(CellRunner):
    """A runner whose trials have given dev values, and which can be interrupted.

    Args:
        folder: The folder of the study.
        values: A function that returns the dev values of the n-th trial, one for each step.
        interrupted_at: The trial that is interrupted.
    """

    def __init__(
        self, folder: StudyFolder, values: Callable[[int], list[float]], *, interrupted_at: int | None = None
    ) -> None:
        super().__init__(folder, 1)
        self.values, self.interrupted_at, self.names = values, interrupted_at, list[str]()

    def run_cell(self, cell: Cell, should_prune: Callable[[], bool] = lambda: False) -> str:
        self.names.append(cell.name)
        if len(self.names) == self.interrupted_at:
            raise KeyboardInterrupt
        folder, run = self.folder, self.folder.run(cell.name)
        run.path.mkdir(parents=True, exist_ok=True)
        state, values = folder.state(cell.name), self.values(len(self.names))
        for step, value in enumerate(values, 1):
            with run.train_log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, "loss": 1.0, "dev_nll": value}) + "\n")
            if should_prune():
                state.status = "pruned"
                break
        else:
            state.status = "completed"
            write_json(run.run_json, {"validation": {"kept_step": len(values)}})
        folder.save_state(cell.name, state)
        return ""


def make_search(write_study: WriteStudy, out: Path, **keys: Any) -> Search:
    study = load_study(write_study(overrides=DEV, search={**SEARCH, **keys}))
    folder = StudyFolder(out)
    folder.create("small")
    return Search(study, folder)


def test_trials_that_fall_behind_are_pruned(write_study: WriteStudy, tmp_path: Path) -> None:
    search = make_search(write_study, tmp_path / "out", trials=8)
    runner = FakeRunner(search.folder, lambda number: [0.9, 0.8, 0.7] if number <= 6 else [2.0, 1.9, 1.8])
    (finalist,) = search.run(runner)
    states = [trial["state"] for trial in search.record()["trials"]]
    assert states == ["completed"] * 6 + ["pruned"] * 2
    assert finalist.name.startswith("finalist, r=") and set(finalist.overrides) == set(SPACE)


def test_interrupted_trial_resumes_its_run(write_study: WriteStudy, tmp_path: Path) -> None:
    first = make_search(write_study, tmp_path / "out", trials=4)
    stopped = FakeRunner(first.folder, lambda _: [0.9, 0.8], interrupted_at=3)
    with pytest.raises(KeyboardInterrupt):
        first.run(stopped)
    again = make_search(write_study, tmp_path / "out", trials=4)
    runner = FakeRunner(again.folder, lambda _: [0.9, 0.8])
    again.check()
    again.run(runner)
    assert runner.names[0] == stopped.names[2], "the interrupted trial comes first, in its own run folder"
    assert len(runner.names) == 2
    assert sum(trial["state"] == "completed" for trial in again.record()["trials"]) == 4


def test_changed_search_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    """Trials of different recipes or spaces must not be mixed. More trials are welcome, and fewer change nothing."""
    first = make_search(write_study, tmp_path / "out", trials=3)
    first.run(FakeRunner(first.folder, lambda _: [0.5]))
    more = make_search(write_study, tmp_path / "out", trials=5)
    more.check()
    runner = FakeRunner(more.folder, lambda _: [0.5])
    more.run(runner)
    assert len(runner.names) == 2
    fewer = make_search(write_study, tmp_path / "out", trials=2)
    fewer.run(FakeRunner(fewer.folder, lambda _: [0.5]))
    with pytest.raises(RunError, match="has changed since the search started"):
        make_search(write_study, tmp_path / "out", space={"lora.r": [2, 4]}).check()
    with pytest.raises(RunError, match="has changed since the search started"):
        Search(first.study, first.folder, ["training.max_steps=2"]).check()
    identity = json.loads((tmp_path / "out" / "search.json").read_text(encoding="utf-8"))
    assert set(identity["rows"]) == {"train", "dev"} and all(identity["rows"].values())
    identity["rows"]["dev"] = "that of other rows"
    write_json(tmp_path / "out" / "search.json", identity)
    with pytest.raises(RunError, match="has changed since the search started"):
        make_search(write_study, tmp_path / "out").check()


def test_sampled_values_are_in_the_space(write_study: WriteStudy, tmp_path: Path) -> None:
    search = make_search(write_study, tmp_path / "out", trials=12)
    search.run(FakeRunner(search.folder, lambda _: [0.5]))
    values = [trial["values"] for trial in search.record()["trials"]]
    assert {value["lora.r"] for value in values} == {2, 4}
    rates = [value["training.learning_rate"] for value in values]
    assert 1e-4 <= min(rates) < 1e-3 < max(rates) <= 1e-2 and len(set(rates)) == 12


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"search": SEARCH}, "search: the recipe has no validation"),
        ({"search": {**SEARCH, "space": {"lora.x": [1]}}, "overrides": DEV}, "lora.x: not a known key"),
        (
            {"search": {**SEARCH, "space": {"lora.r": {"low": 0, "high": 4}}}, "overrides": DEV},
            "lora.r: 0 cannot be used",
        ),
        ({"search": {**SEARCH, "space": {"lora.r": {"low": 4, "high": 4}}}}, "low (4) must be less than high (4)"),
        ({"search": {**SEARCH, "space": {"seed": [1, 2]}}}, "seed cannot be searched"),
        ({"search": {**SEARCH, "space": {"data.train.limit": [10, 20]}}}, "data.train.limit cannot be searched"),
        ({"search": {**SEARCH, "space": {"lora.r": [8, 8]}}}, "search.space: lora.r: 8 occurs twice"),
        (
            {"search": {**SEARCH, "space": {"lora.r": {"low": 1, "high": 4, "step": 1}}}},
            "'step': 1} is not a range",
        ),
        ({"search": {**SEARCH, "space": {"lora.r": {"low": 1}}}}, "search.space: lora.r: {'low': 1} is not a range"),
        ({"search": {**SEARCH, "space": {}}}, "search.space: has 0 values"),
        (
            {"search": {**SEARCH, "space": {"model.name": ["/none"]}}, "overrides": DEV},
            "There is no model folder /none",
        ),
    ],
)
def test_bad_searches_are_refused(
    keys: dict[str, Any], message: str, write_study: WriteStudy, tmp_path: Path, call: Call
) -> None:
    code, _, error = call("study", write_study(**keys), "--output-dir", tmp_path / "out")
    assert code == 2 and message in error and "Traceback" not in error, error
    assert not (tmp_path / "out").exists()


def test_missing_optuna_is_explained(
    write_study: WriteStudy, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = call("study", write_study(search=SEARCH, overrides=DEV), "--output-dir", tmp_path / "out")
    assert code == 2 and "needs Optuna" in error and "pip install" in error


def test_trials_with_the_same_values_share_a_run(write_study: WriteStudy, tmp_path: Path) -> None:
    """With two choices and two trials at a time, the same values are soon sampled twice."""
    search = make_search(write_study, tmp_path / "out", trials=6, space={"lora.r": [2, 4]})
    busy: set[str] = set()

    class OneAtATime(FakeRunner):
        def run_cell(self, cell: Cell, should_prune: Callable[[], bool] = lambda: False) -> str:
            assert cell.name not in busy
            busy.add(cell.name)
            time.sleep(0.1)
            result = "" if self._is_completed(cell) else super().run_cell(cell, should_prune)
            busy.remove(cell.name)
            return result

    runner = OneAtATime(search.folder, lambda _: [0.5])
    runner.jobs = 2
    search.run(runner)
    assert [trial["state"] for trial in search.record()["trials"]] == ["completed"] * 6


def test_invalid_combinations_are_failed_trials(write_study: WriteStudy, tmp_path: Path) -> None:
    """Each value is possible, but 12 rows cannot be divided into micro-batches of 8."""
    space = {"training.batch_size": [8, 12], "training.micro_batch_size": [4, 8]}
    search = make_search(write_study, tmp_path / "out", trials=10, space=space)
    search.study = search.study.model_copy(
        update={"overrides": {**search.study.overrides, "training.batching": "padded"}}
    )
    search.boundary_cells()
    search.run(FakeRunner(search.folder, lambda _: [0.5]))
    states = {(trial["values"]["training.batch_size"], trial["values"]["training.micro_batch_size"], trial["state"])
              for trial in search.record()["trials"]}  # fmt: skip
    assert (12, 8, "failed") in states and (8, 4, "completed") in states


def test_failed_search_runs_the_other_variants(
    write_study: WriteStudy, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "_kept_value", lambda self, name: None)
    for started in (["search-", "search-", "lora-se", "lora-se"], []):  # the second call fails in the same way
        in_process.clear()
        with pytest.raises(StudyError, match="None of the 2 trials of the search was completed") as error:
            run_study(write_study(overrides=DEV, search={**SEARCH, "trials": 2}), tmp_path / "out")
        assert error.value.exit_code == 1 and [name[:7] for name in in_process] == started
    assert (tmp_path / "out" / "study.html").is_file()


def test_similar_strings_have_different_names() -> None:
    names = {
        slug(unique_name({"task.user": text})) for text in ("{premise} / {hypothesis}", "{premise} - {hypothesis}")
    }
    assert len(names) == 2
    assert unique_name({"lora.r": 8, "training.learning_rate": 3e-4}) == "r=8, learning_rate=0.0003"


def test_damaged_database_is_one_sentence(write_study: WriteStudy, tmp_path: Path) -> None:
    search = make_search(write_study, tmp_path / "out")
    (search.folder.path / "search.db").write_text("not a database", encoding="utf-8")
    with pytest.raises(RunError, match="is missing"):
        search.check()
    with pytest.raises(RunError, match="cannot be used"):
        search.run(FakeRunner(search.folder, lambda _: [0.5]))
