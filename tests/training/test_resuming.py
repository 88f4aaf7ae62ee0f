"""Stopping and going on: signals, full disks, and what may be gone on with."""

import fcntl
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.training.test_kills import contents, without_seconds
from toolkit.errors import RunError, StorageError
from toolkit.models import loading
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.callbacks import Progress, TrainLog
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.utils.storage import folder_lock

Call = Callable[..., tuple[int, str, str]]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe], tiny_model: Path) -> Recipe:
    return make_recipe(f"model.name={tiny_model}", "lora.dropout=0.1", "training.max_steps=5", "training.save_steps=2")


@pytest.fixture(scope="module")
def recipe_file(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("outputs") / "whole")
    train_run(recipe, run, TrainingOptions())
    return run


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    advance = Progress.on_step_end

    def do(step: int, what: Callable[[], object]) -> None:
        def on_step_end(self: Progress, args: Any, state: Any, control: Any, **other: Any) -> None:
            advance(self, args, state, control, **other)
            if state.global_step == step:
                what()

        monkeypatch.setattr(Progress, "on_step_end", on_step_end)

    return do


def assert_same(run: RunFolder, other: RunFolder) -> None:
    assert contents(run.adapter) == contents(other.adapter)
    assert without_seconds(run.train_log) == without_seconds(other.train_log)
    assert run.record["status"] == "completed" and run.record["final_loss"] == other.record["final_loss"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_running_step_and_says_how_to_go_on(
    call: Call, at_step: Callable[..., None], recipe_file: Path, whole: RunFolder, tmp_path: Path, number: int
) -> None:
    run, before = RunFolder(tmp_path / "run"), signal.getsignal(number)
    at_step(3, lambda: os.kill(os.getpid(), number))
    code, _, err = call("sft", recipe_file, "--output-dir", run.path)
    assert code == 130 and "Traceback" not in err
    assert f"interrupted behind step 3 of 5, which is saved; go on with: python sft.py {recipe_file}" in err
    assert run.record["status"] == "interrupted" and (run.checkpoints / "checkpoint-3").is_dir()
    assert not run.adapter.exists() and signal.getsignal(number) is before
    at_step(0, lambda: None)
    code, out, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and "resuming    behind step 3 of 5" in out
    assert_same(run, whole)


def test_resume_elsewhere_keeps_the_recorded_precision(
    at_step: Callable[..., None], recipe: Recipe, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU with AMX resumes in float32 what a CPU without it started in float32."""
    run, auto = RunFolder(tmp_path / "run"), recipe.model.model_copy(update={"dtype": "auto"})
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    for has_amx in (False, True):
        monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: True)
        monkeypatch.setattr(loading, "cpu_has_amx", lambda has_amx=has_amx: has_amx)
        with suppress(KeyboardInterrupt):
            train_run(recipe.model_copy(update={"model": auto}), run, TrainingOptions(resume=has_amx))
        at_step(0, lambda: None)
    assert run.record["precision"]["name"] == "float32" and "no AMX" in run.record["precision"]["reason"]
    assert contents(run.adapter) == contents(whole.adapter)


def test_the_same_signal_twice_stops_at_once(
    call: Call, at_step: Callable[..., None], recipe_file: Path, tmp_path: Path
) -> None:
    at_step(3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    code, _, err = call("sft", recipe_file, "--output-dir", tmp_path / "run")
    assert code == 130 and "interrupted at once; go on from the last checkpoint with: python" in err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-2"]


def test_a_signal_before_training_ends_the_command_and_leaves_nothing(
    call: Call, monkeypatch: pytest.MonkeyPatch, recipe_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "toolkit.training.training_run._check_trainable", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    code, _, err = call("sft", recipe_file, "--output-dir", tmp_path / "run")
    assert (code, err.splitlines()[-1]) == (130, "interrupted")
    assert not (tmp_path / "run").exists()


@contextmanager
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Yield what sets the most bytes of a file that this process writes; at the end, there is no limit again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("step", "size", "lost", "kept"),
    [
        (3, 15_000, "checkpoints/checkpoint-4", ["checkpoint-2"]),  # safetensors cannot write the weights
        (3, 24_000, "checkpoints/checkpoint-4", ["checkpoint-2"]),  # nor, here, the optimiser's state
        (5, 100_000, "adapter", ["checkpoint-4", "checkpoint-5"]),  # tokenizers cannot write the tokenizer
    ],
)
def test_a_full_disk_is_one_sentence_and_costs_no_checkpoint_that_was_there(
    call: Call, at_step: Callable[..., None], recipe_file: Path, whole: RunFolder, tmp_path: Path,
    step: int, size: int, lost: str, kept: list[str],
) -> None:  # fmt: skip
    run = RunFolder(tmp_path / "run")
    with file_size_limit() as limit:
        at_step(step, lambda: limit(size))
        code, _, err = call("sft", recipe_file, "--output-dir", run.path)
    assert code == 1 and "Traceback" not in err
    assert f"error: {run.path / lost} could not be written: a file may not become this large here" in err
    assert "hint: Make room (`df -h` tells how much there is), then go on with: python" in err
    assert sorted(path.name for path in run.checkpoints.iterdir()) == kept, "nothing half written"
    assert run.record["status"] == "failed" and not run.adapter.exists()
    at_step(0, lambda: None)
    assert call("sft", recipe_file, "--output-dir", run.path, "--resume")[0] == 0
    assert_same(run, whole)


def test_a_log_that_cannot_be_written_is_one_sentence() -> None:
    log = TrainLog(None)
    log.path = Path("/dev/full")
    state = SimpleNamespace(log_history=[{"step": 1, "loss": 1.0}])
    with pytest.raises(StorageError, match=r"/dev/full could not be written: the disk is full\."):
        log.on_log(None, state, None, logs={"loss": 1.0})


@pytest.fixture
def interrupted(whole: RunFolder, tmp_path: Path) -> RunFolder:
    """A run that was killed behind its fourth step."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(whole.path, run.path)
    shutil.rmtree(run.adapter)
    shutil.rmtree(run.checkpoints / "checkpoint-5")
    run.update(status="running")
    return run


def other_versions(record: dict[str, Any]) -> None:
    record["versions"]["torch"] = "1.0"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (other_versions, "was begun with another versions.torch ('1.0' then, '"),
        (
            lambda record: record["data"]["train"].update(fingerprint="abc"),
            "another data.train.fingerprint ('abc' then",
        ),
        (lambda record: record["data"]["eval"].update(fingerprint="abc"), "another data.eval.fingerprint ('abc' then"),
        (lambda record: record.update(device="Tesla T4"), "another device ('Tesla T4' then, 'CPU, "),
        (
            lambda record: record["precision"].update(name="float16"),
            "another precision.name ('float16' then, 'float32'",
        ),
        (lambda record: record.update(processes=2), "another processes (2 then, 1 now): it cannot go on."),
        (lambda record: record.update(optimizer="sgd"), "another optimizer ('sgd' then, 'adamw_torch_fused' now)"),
    ],
)
def test_what_would_end_in_other_weights_is_refused_by_name(
    call: Call, recipe_file: Path, interrupted: RunFolder, edit: Edit, sentence: str
) -> None:
    record = interrupted.record
    edit(record)
    interrupted.run_json.write_text(json.dumps(record), encoding="utf-8")
    before = {path: path.read_bytes() for path in interrupted.path.rglob("*") if path.is_file()}
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and sentence in err and "or start anew with --overwrite or --output-dir." in err
    assert before == {path: path.read_bytes() for path in interrupted.path.rglob("*") if path.is_file()}


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors")


def other_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("!" + template.read_text(encoding="utf-8"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "sentence"), [(other_weights, "another model.fingerprint ('"), (other_template, "model.fingerprint ('")]
)
def test_a_base_model_that_was_changed_is_noticed(
    call: Call, recipe: Recipe, interrupted: RunFolder, tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    folder = Path(recipe.model.name)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    try:
        change(folder)
        code, _, err = call("sft", interrupted.recipe_file, "--output-dir", interrupted.path, "--resume")
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert code == 2 and sentence in err and "Bring back the model that the run began with" in err, err


def test_prompts_of_another_day_are_noticed(call: Call, recipe_file: Path, interrupted: RunFolder) -> None:
    """A template asked for today's date, which a recipe without task.date_string leaves to the day."""
    interrupted.update(tokens_sha256="yesterday's")
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "another tokens_sha256 (" in err and "or set task.date_string" in err


def test_other_rows_are_noticed_in_the_file_itself(
    call: Call, make_recipe: Any, tiny_model: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    labels = ["entailment", "neutral", "contradiction"] * 3
    told = [{"id": i, "premise": f"Paul dort {i} fois.", "hypothesis": "Il dort."} for i in range(len(labels))]
    lines = [json.dumps(row | {"label": label}) for row, label in zip(told, labels, strict=True)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    recipe, run = tmp_path / "own.yaml", RunFolder(tmp_path / "run")
    made = make_recipe(f"model.name={tiny_model}", f"data.train={{path: {rows}}}", "training.max_steps=1")
    recipe.write_text(dump_recipe(made), encoding="utf-8")
    code, _, err = call("sft", recipe, "--output-dir", run.path)
    assert code == 0, err
    run.update(status="running")
    rows.write_text(rows.read_text(encoding="utf-8").replace("Paul dort 3", "Anne dort 3"))
    code, _, err = call("sft", recipe, "--output-dir", run.path, "--resume")
    assert code == 2 and "another data.train.fingerprint (" in err


@pytest.mark.parametrize("batching", [None, {}, {"name": "padded", "odd": 1}, {"name": "padded", "verification": 3}])
def test_a_plan_that_cannot_be_read_is_one_sentence(
    call: Call, recipe_file: Path, interrupted: RunFolder, batching: Any
) -> None:
    interrupted.update(batching=batching)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "The plan of steps in run.json is damaged" in err and "Traceback" not in err
    interrupted.update(batching={"name": "padded", "reason": "", "verification": None}, batch_tokens="x")
    assert call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")[0] == 2


def test_a_run_without_its_versions_is_not_gone_on_with(call: Call, recipe_file: Path, interrupted: RunFolder) -> None:
    record = interrupted.record
    del record["versions"]
    interrupted.run_json.write_text(json.dumps(record), encoding="utf-8")
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "another versions.python (None then, '" in err


def test_links_inside_a_run_are_not_followed(
    call: Call, recipe_file: Path, interrupted: RunFolder, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    interrupted.checkpoints.rename(elsewhere)
    interrupted.checkpoints.symlink_to(elsewhere)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and f"{interrupted.checkpoints} is a symbolic link to {elsewhere}." in err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoint-4"]


def test_a_run_that_another_process_finished_meanwhile_is_not_overwritten(recipe: Recipe, whole: RunFolder) -> None:
    before = contents(whole.adapter)
    with pytest.raises(RunError, match="exists already, and a run is never overwritten silently"):
        train_run(recipe, whole, TrainingOptions())
    assert contents(whole.adapter) == before


def test_another_memory_does_not_change_the_parts_of_a_step(
    call: Call, recipe_file: Path, interrupted: RunFolder
) -> None:
    interrupted.update(batch_tokens=77)
    code, out, _ = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume", "--dry-run")
    assert code == 0 and "at most 77 nodes per forward pass" in out


def test_damaged_checkpoints_are_named_and_training_goes_on_from_the_newest_whole_one_or_the_start(
    call: Call, recipe_file: Path, interrupted: RunFolder, whole: RunFolder
) -> None:
    for folder in (interrupted.checkpoints / "checkpoint-4", interrupted.checkpoints / "checkpoint-2"):
        if folder.is_dir():
            os.truncate(folder / "optimizer.safetensors", 1_000)
    code, out, _ = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 0 and "checkpoint-4 is damaged and not used: optimizer.safetensors has 1,000 of " in out
    assert "resuming" not in out, "there is no other"
    assert_same(interrupted, whole)


def test_a_folder_that_was_left_as_a_run_began_can_be_resumed_or_started_again(
    call: Call, recipe_file: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / f".recipe.yaml.{2**22 + 1}.partial").touch()
    run.check_not_taken(overwrite=False)
    code, _, err = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 2 and "holds no run that could be resumed" in err and "Leave out --resume" in err
    shutil.copy(recipe_file, run.recipe_file)
    code, _, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and run.record["status"] == "completed" and run.record["started"]
    code, out, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and "is finished; there is nothing to resume" in out


def test_overwriting_that_was_killed_promises_nothing_and_can_be_done_again(
    call: Call, recipe_file: Path, interrupted: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda _: os.kill(os.getpid(), signal.SIGINT))
        interrupted._empty()
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "holds no run that could be resumed" in err
    interrupted.check_not_taken(overwrite=True)


@pytest.mark.parametrize("content", [b"", b'{"status": "runn', b"[]", b"\xff\xfe"])
def test_a_damaged_run_json_is_one_sentence(
    call: Call, recipe_file: Path, interrupted: RunFolder, content: bytes
) -> None:
    interrupted.run_json.write_bytes(content)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and f"error: {interrupted.run_json}" in err and "Put it back from a copy" in err, err
    assert "Traceback" not in err


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = pytest.raises(RunError, match="Another process is training in")
    with folder_lock(tmp_path / "run"), refused, folder_lock(tmp_path / "run"):
        pass
    with folder_lock(tmp_path / "run"):
        pass

    def without_locks(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with folder_lock(tmp_path / "run"):
        pass


def test_a_recipe_trains_and_is_measured_to_the_same_digits_again(
    call: Call, recipe: Recipe, recipe_file: Path, whole: RunFolder, tmp_path: Path
) -> None:
    again = RunFolder(tmp_path / whole.path.name)
    train_run(recipe, again, TrainingOptions())
    assert_same(again, whole)
    config = json.loads((again.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"], "whatever PYTHONHASHSEED says"
    metrics = []
    for run in (again, whole):
        assert call("eval_generate", run.path)[0] == 0
        found = json.loads((run.eval / "adapter" / "metrics.json").read_text(encoding="utf-8"))
        assert found.pop("speed")["seconds"] > 0
        metrics.append(found)
    assert metrics[0] == metrics[1]
    assert (
        contents(again.eval / "adapter")["predictions.jsonl"] == contents(whole.eval / "adapter")["predictions.jsonl"]
    )
