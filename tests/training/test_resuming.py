"""Tests of stopping and resuming: signals, full disks, and the conditions under which a run can be resumed."""

import fcntl
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.training.test_kills import contents, without_seconds
from toolkit.errors import RunError, StorageError
from toolkit.models import loading
from toolkit.planning.batching import Verification
from toolkit.planning.job import Plan
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training import training_run
from toolkit.training.callbacks import Progress, TrainLog
from toolkit.training.resume_checks import check_same_plan
from toolkit.training.stop_signals import StopSignals
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
def uninterrupted(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of the recipe, for comparison."""
    run = RunFolder(tmp_path_factory.mktemp("outputs") / "uninterrupted")
    train_run(recipe, run, TrainingOptions())
    return run


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """A function that makes training call another function at the end of a step. Step 0 disables it."""
    advance = Progress.on_step_end

    def install(step: int, action: Callable[[], object]) -> None:
        def on_step_end(self: Progress, args: Any, state: Any, control: Any, **rest: Any) -> None:
            advance(self, args, state, control, **rest)
            if state.global_step == step:
                action()

        monkeypatch.setattr(Progress, "on_step_end", on_step_end)

    return install


def assert_same_result(run: RunFolder, expected: RunFolder) -> None:
    assert contents(run.adapter) == contents(expected.adapter)
    assert without_seconds(run.train_log) == without_seconds(expected.train_log)
    assert run.record["status"] == "completed" and run.record["final_loss"] == expected.record["final_loss"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_step_and_explains_resume(
    call: Call, at_step: Callable[..., None], recipe_file: Path, uninterrupted: RunFolder, tmp_path: Path, number: int
) -> None:
    run, before = RunFolder(tmp_path / "run"), signal.getsignal(number)
    at_step(3, lambda: os.kill(os.getpid(), number))
    code, _, err = call("sft", recipe_file, "--output-dir", run.path)
    assert code == 130 and "Traceback" not in err
    assert "interrupted: Training stopped after step 3 of 5, and a checkpoint was saved." in err
    assert f"Resume with: python sft.py {recipe_file}" in err
    assert run.record["status"] == "interrupted" and (run.checkpoints / "checkpoint-3").is_dir()
    assert not run.adapter.exists() and signal.getsignal(number) is before
    at_step(0, lambda: None)
    code, out, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and "resuming    after step 3 of 5" in out
    assert_same_result(run, uninterrupted)


def test_resume_elsewhere_keeps_the_recorded_precision(
    at_step: Callable[..., None],
    recipe: Recipe,
    uninterrupted: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU that multiplies bfloat16, where `auto` chooses it, resumes a run in float32 of a CPU that does not."""
    run, auto = RunFolder(tmp_path / "run"), recipe.model.model_copy(update={"dtype": "auto"})
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    for has_units in (False, True):
        monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: True)
        monkeypatch.setattr(loading, "cpu_has_bfloat16_units", lambda has_units=has_units: has_units)
        with suppress(KeyboardInterrupt):
            train_run(recipe.model_copy(update={"model": auto}), run, TrainingOptions(resume=has_units))
        at_step(0, lambda: None)
    assert run.record["precision"]["name"] == "float32" and "without AVX512-BF16" in run.record["precision"]["reason"]
    assert contents(run.adapter) == contents(uninterrupted.adapter)


def test_second_signal_stops_immediately(
    call: Call, at_step: Callable[..., None], recipe_file: Path, tmp_path: Path
) -> None:
    at_step(3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    code, _, err = call("sft", recipe_file, "--output-dir", tmp_path / "run")
    assert (
        code == 130
        and "interrupted: Training stopped immediately. Resume from the latest checkpoint with: python" in err
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(("seconds", "stops_immediately"), [(0.0, False), (0.6, True)])
def test_any_later_signal_stops_immediately(seconds: float, stops_immediately: bool) -> None:
    """After SIGTERM, one Ctrl-C is enough. But a launcher turns one Ctrl-C into two signals at nearly the same time."""
    expected = pytest.raises(KeyboardInterrupt, match="stopped immediately") if stops_immediately else nullcontext()
    with expected, StopSignals("resume") as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.is_stop_requested
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)


def test_plan_hints_fit_what_changed(interrupted: RunFolder) -> None:
    plan = {key: value for key, value in interrupted.record.items() if key != "status"}
    check_same_plan(interrupted, plan)
    with pytest.raises(RunError, match=r"processes 1 \(now 2\)\.") as error:
        check_same_plan(interrupted, plan | {"processes": 2, "steps": 2})
    assert "same number of processes" in str(error.value.hint)
    for key, value in (("optimizer", "sgd"), ("steps", 2), ("gradient_checkpointing", True)):
        with pytest.raises(RunError, match=f"it was started with {key}") as error:
            check_same_plan(interrupted, plan | {key: value})
        assert "processes" not in str(error.value.hint) and "same kind of device" in str(error.value.hint)


def test_signal_before_training_leaves_no_files(
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
    """Yield a function that limits the size in bytes of files that this process writes; lift the limit at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("step", "size", "failed", "kept"),
    [
        (3, 15_000, "checkpoints/checkpoint-4", ["checkpoint-2"]),  # safetensors fails on the weights
        (3, 24_000, "checkpoints/checkpoint-4", ["checkpoint-2"]),  # safetensors fails on the optimizer's state
        (5, 100_000, "adapter", ["checkpoint-4", "checkpoint-5"]),  # tokenizers fails on the tokenizer
    ],
)
def test_full_disk_keeps_earlier_checkpoints(
    call: Call, at_step: Callable[..., None], recipe_file: Path, uninterrupted: RunFolder, tmp_path: Path,
    step: int, size: int, failed: str, kept: list[str],
) -> None:  # fmt: skip
    """The message names the file and explains how to resume, and the resumed run ends as usual."""
    run = RunFolder(tmp_path / "run")
    with file_size_limit() as limit:
        at_step(step, lambda: limit(size))
        code, _, err = call("sft", recipe_file, "--output-dir", run.path)
    assert code == 1 and "Traceback" not in err
    assert f"error: {run.path / failed} could not be written: the file exceeds the size limit" in err
    assert "hint: Free some disk space (`df -h` shows what is left), then resume with: python" in err
    assert sorted(path.name for path in run.checkpoints.iterdir()) == kept, "an incomplete file was left"
    assert run.record["status"] == "failed" and not run.adapter.exists()
    at_step(0, lambda: None)
    assert call("sft", recipe_file, "--output-dir", run.path, "--resume")[0] == 0
    assert_same_result(run, uninterrupted)


def test_full_disk_while_logging_is_reported() -> None:
    log = TrainLog(None)
    log.path = Path("/dev/full")
    state = SimpleNamespace(log_history=[{"step": 1, "loss": 1.0}])
    with pytest.raises(StorageError, match=r"/dev/full could not be written: the disk is full\."):
        log.on_log(None, state, None, logs={"loss": 1.0})


@pytest.fixture
def interrupted(uninterrupted: RunFolder, tmp_path: Path) -> RunFolder:
    """A run that was killed after its fourth step."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(uninterrupted.path, run.path)
    shutil.rmtree(run.adapter)
    shutil.rmtree(run.checkpoints / "checkpoint-5")
    run.update(status="running")
    return run


def change_torch_version(record: dict[str, Any]) -> None:
    record["versions"]["torch"] = "1.0"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (change_torch_version, "it was started with versions.torch '1.0' (now '"),
        (
            lambda record: record["data"]["train"].update(fingerprint="abc"),
            "started with data.train.fingerprint 'abc' (now '",
        ),
        (
            lambda record: record["data"]["eval"].update(fingerprint="abc"),
            "started with data.eval.fingerprint 'abc' (now '",
        ),
        (lambda record: record.update(device="Tesla T4"), "started with device 'Tesla T4' (now 'CPU, "),
        (
            lambda record: record["precision"].update(name="float16"),
            "started with precision.name 'float16' (now 'float32')",
        ),
        (lambda record: record.update(processes=2), "started with processes 2 (now 1)."),
        (lambda record: record.update(optimizer="sgd"), "started with optimizer 'sgd' (now 'adamw_torch_fused')"),
    ],
)
def test_changed_run_conditions_are_refused(
    call: Call, recipe_file: Path, interrupted: RunFolder, edit: Edit, sentence: str
) -> None:
    """The message names what has changed, and no file of the run is touched."""
    record = interrupted.record
    edit(record)
    interrupted.run_json.write_text(json.dumps(record), encoding="utf-8")
    before = {path: path.read_bytes() for path in interrupted.path.rglob("*") if path.is_file()}
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and sentence in err and "or start over with --overwrite or another --output-dir." in err
    assert before == {path: path.read_bytes() for path in interrupted.path.rglob("*") if path.is_file()}


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors")


def change_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("!" + template.read_text(encoding="utf-8"), encoding="utf-8")


@pytest.mark.parametrize("change", [change_weights, change_template])
def test_changed_base_model_is_refused(
    call: Call, recipe: Recipe, interrupted: RunFolder, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = Path(recipe.model.name)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    try:
        change(folder)
        code, _, err = call("sft", interrupted.recipe_file, "--output-dir", interrupted.path, "--resume")
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert code == 2 and "started with model.fingerprint '" in err, err
    assert "Restore the model that the run was started with" in err, err


def test_prompts_with_a_new_date_are_refused(call: Call, recipe_file: Path, interrupted: RunFolder) -> None:
    """A chat template can write today's date, which a recipe without task.date_string does not fix."""
    interrupted.update(tokens_sha256="yesterday's")
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "started with tokens_sha256 \"yesterday's\" (now '" in err
    assert "task.date_string sets their date" in err


def test_changed_training_rows_are_refused(call: Call, make_recipe: Any, tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    labels = ["entailment", "neutral", "contradiction"] * 3
    inputs = [{"id": i, "premise": f"Paul dort {i} fois.", "hypothesis": "Il dort."} for i in range(len(labels))]
    lines = [json.dumps(row | {"label": label}) for row, label in zip(inputs, labels, strict=True)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    recipe_file, run = tmp_path / "own.yaml", RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tiny_model}", f"data.train={{path: {rows}}}", "training.max_steps=1")
    recipe_file.write_text(dump_recipe(recipe), encoding="utf-8")
    code, _, err = call("sft", recipe_file, "--output-dir", run.path)
    assert code == 0, err
    run.update(status="running")
    rows.write_text(rows.read_text(encoding="utf-8").replace("Paul dort 3", "Anne dort 3"))
    code, _, err = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 2 and "started with data.train.fingerprint '" in err


@pytest.mark.parametrize("batching", [None, {}, {"name": "padded", "odd": 1}, {"name": "padded", "verification": 3}])
def test_damaged_plan_is_reported(call: Call, recipe_file: Path, interrupted: RunFolder, batching: Any) -> None:
    interrupted.update(batching=batching)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "The training plan in run.json is damaged" in err and "Traceback" not in err
    interrupted.update(batching={"name": "padded", "reason": "", "verification": None}, batch_tokens="x")
    assert call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")[0] == 2


def test_run_without_versions_is_not_resumed(call: Call, recipe_file: Path, interrupted: RunFolder) -> None:
    record = interrupted.record
    del record["versions"]
    interrupted.run_json.write_text(json.dumps(record), encoding="utf-8")
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "started with versions.python None (now '" in err


def test_links_inside_a_run_are_not_followed(
    call: Call, recipe_file: Path, interrupted: RunFolder, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    interrupted.checkpoints.rename(elsewhere)
    interrupted.checkpoints.symlink_to(elsewhere)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and f"{interrupted.checkpoints} is a symbolic link to {elsewhere}." in err
    assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoint-4"]


def test_finished_run_is_not_overwritten(recipe: Recipe, uninterrupted: RunFolder) -> None:
    before = contents(uninterrupted.adapter)
    with pytest.raises(RunError, match="already exists, and runs are not overwritten by default"):
        train_run(recipe, uninterrupted, TrainingOptions())
    assert contents(uninterrupted.adapter) == before


def test_resume_keeps_recorded_micro_batches(call: Call, recipe_file: Path, interrupted: RunFolder) -> None:
    interrupted.update(batch_tokens=77)
    code, out, _ = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume", "--dry-run")
    assert code == 0 and "at most 77 nodes per forward pass" in out, "the recorded size"


def test_resume_keeps_the_recorded_attention(
    at_step: Callable[..., None], recipe: Recipe, uninterrupted: RunFolder, tmp_path: Path
) -> None:
    """Runs of earlier versions recorded no attention, used dense masks, and continue with them."""
    assert uninterrupted.record["tree_attention"] == "split"
    adapters = []
    for is_older in (False, True):
        run = RunFolder(tmp_path / f"run-{is_older}")
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Plan, "allowed_attentions", ("dense",))
            train_run(recipe, run, TrainingOptions())
        at_step(0, lambda: None)
        record = run.record
        assert record["tree_attention"] == "dense"
        if is_older:
            del record["tree_attention"]
            run.run_json.write_text(json.dumps(record), encoding="utf-8")
        train_run(recipe, run, TrainingOptions(resume=True))
        assert run.record["status"] == "completed" and run.record["tree_attention"] == "dense"
        adapters.append(contents(run.adapter))
    assert adapters[0] == adapters[1]


def test_resume_refuses_another_attention(
    call: Call, recipe_file: Path, interrupted: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose attention no longer passes the verification would not end in the same bytes."""
    verification = {False: Verification(1.0, 1.0, 0.1), True: Verification(0.0, 0.0, 0.1)}
    monkeypatch.setattr(training_run, "verify_tree", lambda *arguments, **_: verification[arguments[-1] == "dense"])
    before = interrupted.run_json.read_bytes()
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "it was started with tree_attention 'split' (now 'dense')." in err
    assert interrupted.run_json.read_bytes() == before


@pytest.mark.parametrize("value", ["other", None, 1])
def test_unknown_attention_is_refused(call: Call, recipe_file: Path, interrupted: RunFolder, value: object) -> None:
    interrupted.update(tree_attention=value)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "The training plan in run.json is damaged" in err and "Traceback" not in err


def test_resume_without_intact_checkpoint_starts_over(
    call: Call, recipe_file: Path, interrupted: RunFolder, uninterrupted: RunFolder
) -> None:
    for folder in (interrupted.checkpoints / "checkpoint-4", interrupted.checkpoints / "checkpoint-2"):
        if folder.is_dir():
            os.truncate(folder / "optimizer.safetensors", 1_000)
    code, out, _ = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 0 and "checkpoint-4 is damaged and will be ignored: optimizer.safetensors has 1,000 of " in out
    assert "resuming" not in out, "no checkpoint is intact"
    assert_same_result(interrupted, uninterrupted)


def test_run_killed_at_its_start_can_resume(call: Call, recipe_file: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / f".recipe.yaml.{2**22 + 1}.partial").touch()
    run.check_not_taken(overwrite=False)
    code, _, err = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 2 and "contains no run to resume" in err and "Leave out --resume" in err
    shutil.copy(recipe_file, run.recipe_file)
    code, _, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and run.record["status"] == "completed" and run.record["started"]
    code, out, _ = call("sft", recipe_file, "--output-dir", run.path, "--resume")
    assert code == 0 and "is finished. There is nothing to resume" in out


def test_killed_overwrite_can_be_repeated(
    call: Call, recipe_file: Path, interrupted: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda _: os.kill(os.getpid(), signal.SIGINT))
        interrupted._empty()
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and "contains no run to resume" in err
    interrupted.check_not_taken(overwrite=True)


@pytest.mark.parametrize("content", [b"", b'{"status": "runn', b"[]", b"\xff\xfe"])
def test_damaged_run_json_is_reported(call: Call, recipe_file: Path, interrupted: RunFolder, content: bytes) -> None:
    interrupted.run_json.write_bytes(content)
    code, _, err = call("sft", recipe_file, "--output-dir", interrupted.path, "--resume")
    assert code == 2 and f"error: {interrupted.run_json}" in err and "Restore it from a copy" in err, err
    assert "Traceback" not in err


def test_run_folder_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_refused = pytest.raises(RunError, match="Another process is using")
    with folder_lock(tmp_path / "run", create=True), is_refused, folder_lock(tmp_path / "run", create=True):
        pass
    with folder_lock(tmp_path / "run", create=True):
        pass

    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(fcntl, "flock", fail)  # as on a file system without locks
    with folder_lock(tmp_path / "run", create=True):
        pass


def test_training_and_evaluation_are_reproducible(
    call: Call, recipe: Recipe, recipe_file: Path, uninterrupted: RunFolder, tmp_path: Path
) -> None:
    again = RunFolder(tmp_path / uninterrupted.path.name)
    train_run(recipe, again, TrainingOptions())
    assert_same_result(again, uninterrupted)
    config = json.loads((again.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"], (
        "depends on PYTHONHASHSEED unless sorted"
    )
    metrics = []
    for run in (again, uninterrupted):
        assert call("eval_generate", run.path)[0] == 0
        recorded = json.loads((run.eval / "adapter" / "metrics.json").read_text(encoding="utf-8"))
        assert recorded.pop("speed")["seconds"] > 0
        assert recorded["seal"].pop("content"), "a digest of all fields, of which the speed differs"
        metrics.append(recorded)
    assert metrics[0] == metrics[1]
    assert (
        contents(again.eval / "adapter")["predictions.jsonl"]
        == contents(uninterrupted.eval / "adapter")["predictions.jsonl"]
    )
