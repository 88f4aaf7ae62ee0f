"""Experiment trackers get the metrics of each step and nothing else, and nothing is sent to the network."""

import importlib.util
import os
import sqlite3
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.conftest import RECIPE
from tests.end_to_end.test_offline import run_offline
from tests.training.test_training_run import log
from toolkit.errors import TrainingError
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.trackers import TrackerCallback
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.utils.atomic_io import write_json

METRICS = {"loss", "learning_rate", "grad_norm"}
DEV = {"dev_accuracy": 0.5, "dev_macro_f1": 0.4, "dev_nll": 1.1}


class FakeTrackio(ModuleType):
    """A package that records what it is called with."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.options: list[dict[str, Any]] = []
        self.was_offline = list[bool]()
        self.logged = list[tuple[int, dict[str, float]]]()
        self.is_finished = False

    def init(self, **options: Any) -> None:
        from huggingface_hub import constants

        print("* Trackio project initialized")
        self.options.append(options)
        self.was_offline.append(constants.HF_HUB_OFFLINE)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.is_finished = True


class FakeMlflow(ModuleType):
    """A package whose client keeps experiments and runs in memory."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.entities = SimpleNamespace(Metric=lambda *values: values)
        self.experiments = list[str]()
        self.runs = list[SimpleNamespace]()
        self.is_telemetry_off = list[bool]()

    def MlflowClient(self) -> "FakeMlflow":
        self.is_telemetry_off.append(os.environ.get("MLFLOW_DISABLE_TELEMETRY") == "true")
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return name

    def search_runs(self, experiments: list[str], filter_string: str) -> list[SimpleNamespace]:
        return [run for run in self.runs if run.condition == filter_string]

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        ((key, value),) = tags.items()
        info = SimpleNamespace(run_id=len(self.runs), run_name=run_name)
        run = SimpleNamespace(info=info, condition=f"tags.`{key}` = '{value}'", metrics=[], statuses=[])
        self.runs.append(run)
        return run

    def log_batch(self, run: int, metrics: list[tuple[Any, ...]]) -> None:
        self.runs[run].metrics += metrics

    def set_terminated(self, run: int, status: str) -> None:
        self.runs[run].statuses.append(status)


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    return fake


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return fake


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write_json(tmp_path / "nightly" / "run.json", {"started": "2026-11-27T06:00:00+00:00"})
    return RunFolder(tmp_path / "nightly")


def send(name: str, run: RunFolder, steps: range, *, is_main: bool = True, is_finished: bool = True) -> TrackerCallback:
    """Call a tracker's callback as a trainer does, from the step before the first of `steps`."""
    callback = TrackerCallback(name, run, lambda history: len(history) == 2)
    state = SimpleNamespace(is_world_process_zero=is_main, log_history=list(steps))
    state.global_step = steps.start - 1
    callback.on_train_begin(None, state, None)
    for state.global_step in steps:
        logs = {"loss": 2.0 / state.global_step, "epoch": 0.1, "num_tokens": 99, "text": "private", "grad_norm": None}
        callback.on_log(None, state, None, logs=logs | (DEV if state.global_step == 2 else {}))
    callback.on_log(None, state, None, logs={"train_runtime": 3.0, "train_loss": 1.0})
    if is_finished:
        callback.on_train_end(None, state, None)
    return callback


def test_training_sends_only_metrics(
    make_recipe: Callable[..., Recipe], tiny_model: Path, tmp_path: Path, trackio: FakeTrackio
) -> None:
    overrides = [f"model.name={tiny_model}", "training.report_to=trackio", "training.max_steps=2"]
    run = RunFolder(tmp_path / "nightly")
    train_run(make_recipe(*overrides), run, TrainingOptions())
    assert trackio.options == [
        {"project": "toolkit", "name": f"nightly {run.record['started']}", "resume": "never", "private": True,
         "embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    ]  # fmt: skip
    assert [step for step, _ in trackio.logged] == [1, 2] and trackio.is_finished
    for line, (_, metrics) in zip(log(tmp_path / "nightly"), trackio.logged, strict=True):
        assert metrics == {name: line[name] for name in METRICS}


def test_trackio_is_offline_without_a_space(
    run: RunFolder, trackio: FakeTrackio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    send("trackio", run, range(1, 3))
    assert trackio.was_offline == [True] and not capsys.readouterr().out
    assert trackio.logged == [(1, {"loss": 2.0}), (2, {"loss": 1.0, **DEV})]
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/runs")
    send("trackio", run, range(3, 4))
    assert trackio.was_offline == [True, False] and trackio.options[-1]["resume"] == "allow"
    assert {options["name"] for options in trackio.options} == {"nightly 2026-11-27T06:00:00+00:00"}


def test_mlflow_telemetry_is_off(run: RunFolder, mlflow: FakeMlflow) -> None:
    send("mlflow", run, range(1, 3))
    assert mlflow.is_telemetry_off == [True] and mlflow.experiments == ["toolkit"]
    (tracked,) = mlflow.runs
    assert tracked.info.run_name == "nightly" and tracked.statuses == ["RUNNING", "FINISHED"]
    metrics = [(name, value, step) for name, value, _, step in tracked.metrics]
    assert metrics == [("loss", 2.0, 1), ("loss", 1.0, 2), *((name, value, 2) for name, value in DEV.items())]


def test_mlflow_run_is_resumed(run: RunFolder, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    send("mlflow", run, range(1, 3))
    send("mlflow", run, range(3, 5))
    send("mlflow", run, range(1, 2))  # a run that starts again, with --overwrite
    assert mlflow.experiments == ["mine"] and len(mlflow.runs) == 2
    assert [step for *_, step in mlflow.runs[0].metrics] == [1, 2, 2, 2, 2, 3, 4]
    write_json(run.run_json, {"started": "2026-11-28T06:00:00+00:00"})
    send("mlflow", run, range(2, 3))
    assert len(mlflow.runs) == 3


def test_interrupted_mlflow_run_is_killed(run: RunFolder, mlflow: FakeMlflow) -> None:
    send("mlflow", run, range(1, 2))
    assert mlflow.runs[0].statuses == ["RUNNING", "KILLED"]


def test_failed_training_marks_the_mlflow_run(run: RunFolder, mlflow: FakeMlflow) -> None:
    callback = send("mlflow", run, range(1, 3), is_finished=False)
    assert mlflow.runs[0].statuses == ["RUNNING"]
    del callback
    assert mlflow.runs[0].statuses == ["RUNNING", "FAILED"]


def test_other_processes_send_nothing(run: RunFolder, trackio: FakeTrackio) -> None:
    send("trackio", run, range(1, 3), is_main=False)
    assert not trackio.options and not trackio.logged


def test_tracker_must_start(run: RunFolder, trackio: FakeTrackio, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ValueError("no write token.\nMore lines.")

    monkeypatch.setattr(trackio, "init", init)
    with pytest.raises(TrainingError, match=r"report_to is trackio, which cannot start a run: no write token\.$"):
        send("trackio", run, range(1, 3))


def test_later_failures_only_warn(
    run: RunFolder, trackio: FakeTrackio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(metrics: dict[str, float], step: int) -> None:
        raise ConnectionError("server is gone")

    monkeypatch.setattr(trackio, "log", fail)
    send("trackio", run, range(1, 4))
    assert caplog.text.count("server is gone") == 1 and "train_log.jsonl has them" in caplog.text


@pytest.mark.parametrize("tracker", ["trackio", "mlflow"])
def test_installed_trackers_stay_offline(tracker: str, tmp_path: Path) -> None:
    """A stored token must not make Trackio ask the Hub for the user's name."""
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_" + "x" * 34, encoding="utf-8")
    code = """
for name in list(os.environ):  # MLflow sends no statistics from tests and from CI
    if name.startswith(("TRACKIO_", "MLFLOW_", "PYTEST_")) or name in ("CI", "GITHUB_ACTIONS"):
        del os.environ[name]
import toolkit
_, recipe, tracker = sys.argv
toolkit.train(recipe, overrides={"training.max_steps": 2, "training.report_to": tracker}, output_dir="nightly")
"""
    result = run_offline(tmp_path, code, recipe, tracker)
    assert result.returncode == 0, result.stderr[-2000:]
    assert {path.name for path in (tmp_path / "nightly").iterdir()} == {
        "recipe.yaml", "run.json", "train_log.jsonl", "adapter", "checkpoints"
    }  # fmt: skip
    database = {"trackio": tmp_path / "hf" / "trackio" / "toolkit.db", "mlflow": tmp_path / "mlflow.db"}[tracker]
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT DISTINCT step FROM metrics ORDER BY step").fetchall() == [(1,), (2,)]
