"""Numbers that cannot be right stop a run at the step that has them, and that step can be looked into."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import TrainingError
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.divergence import DivergenceGuard
from toolkit.training.objective import check_logits_differ
from toolkit.training.trainer import MicroBatchAccumulationMixin
from toolkit.training.training_run import TrainingOptions, train_run

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def watch(tmp_path: Path) -> DivergenceGuard:
    watch = DivergenceGuard(tmp_path / "bad_step.json", ["a", "b", "c"])
    watch.begin_step(torch.tensor([2, 0]), None)
    return watch


def log_step(watch: DivergenceGuard, *, fp16: bool = False, **logs: float) -> None:
    watch.on_log(SimpleNamespace(fp16=fp16), SimpleNamespace(global_step=7), None, {"learning_rate": 0.1, **logs})


@pytest.mark.parametrize(
    ("logs", "sentence", "hint"),
    [
        ({"loss": math.nan}, "step 7: The loss is nan.", "training.learning_rate"),
        ({"loss": math.inf, "grad_norm": 1.0}, "step 7: The loss is inf.", "training.learning_rate"),
        ({"loss": 0.0}, "step 7: The loss is exactly 0.0, so nothing is learnt.", "training.max_steps"),
        ({"loss": 1.0, "grad_norm": math.inf}, "step 7: The norm of the gradient is inf.", "model.dtype"),
    ],
)
def test_the_first_bad_number_stops_training_and_says_of_which_rows(
    watch: DivergenceGuard, logs: dict[str, float], sentence: str, hint: str
) -> None:
    log_step(watch, loss=1.0, grad_norm=2.0)
    assert not watch.path.exists()
    with pytest.raises(TrainingError, match=sentence) as stopped:
        log_step(watch, **logs)
    assert str(watch.path) in str(stopped.value) and hint in (stopped.value.hint or "")
    found = json.loads(watch.path.read_text(encoding="utf-8"))
    assert found["step"] == 7 and found["rows"] == ["c", "a"] and found["learning_rate"] == 0.1
    for name, value in logs.items():
        assert str(found[name]) == str(value)


@pytest.mark.parametrize(("error", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system")])
def test_where_the_step_cannot_be_described_the_number_is_still_the_news(
    watch: DivergenceGuard, monkeypatch: pytest.MonkeyPatch, error: int, why: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "write_text", refuse)
    said = rf"step 7: The loss is nan\. .*bad_step\.json could not be written: {why}\."
    with pytest.raises(TrainingError, match=said) as stopped:
        log_step(watch, loss=math.nan)
    assert "training.learning_rate" in (stopped.value.hint or "")


def test_a_step_that_fp16s_scaler_skips_is_no_error_until_no_scale_is_left(watch: DivergenceGuard) -> None:
    for scale in (65_536.0, 1.0):
        watch.begin_step(torch.tensor([1]), scale)
        log_step(watch, fp16=True, loss=1.0, grad_norm=math.inf)
    watch.begin_step(torch.tensor([1]), 0.5)
    with pytest.raises(TrainingError, match="the gradient is inf"):
        log_step(watch, fp16=True, loss=1.0, grad_norm=math.inf)
    assert json.loads(watch.path.read_text(encoding="utf-8"))["loss_scale"] == 0.5


def test_the_closing_summary_is_no_step(watch: DivergenceGuard) -> None:
    watch.on_log(SimpleNamespace(fp16=False), SimpleNamespace(global_step=7), None, {"train_loss": 0.0})
    assert not watch.path.exists()


def test_a_step_without_a_trained_token_stops_training(watch: DivergenceGuard) -> None:
    class Trainer(MicroBatchAccumulationMixin):
        divergence = watch
        accelerator = SimpleNamespace(scaler=None, reduce=lambda counts, _: counts)
        lr_scheduler = SimpleNamespace(get_last_lr=lambda: [0.25])
        state = SimpleNamespace(global_step=3)
        _prepare_inputs = staticmethod(lambda inputs: inputs)

    step: dict[str, Any] = {"parts": [], "trained": torch.zeros(1), "tokens": torch.tensor([9])}
    with pytest.raises(TrainingError, match=r"step 4: No token of its rows is trained\."):
        Trainer().training_step(torch.nn.Identity(), {**step, "rows": torch.tensor([1])})
    found = json.loads(watch.path.read_text(encoding="utf-8"))
    assert (found["rows"], found["learning_rate"]) == (["b"], 0.25)


def test_equal_logits_are_refused_and_one_that_differs_is_not() -> None:
    logits = torch.full((1, 3, 5), 0.25)
    with pytest.raises(TrainingError, match="all equal"):
        check_logits_differ(logits)
    logits[0, 1, 2] += 1
    check_logits_differ(logits)


@pytest.mark.parametrize("batching", ["padded", "auto"])
def test_a_model_of_zeros_is_found_at_its_first_step(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, batching: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "zeros")
    tensors = load_file(tiny_model / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file(zeros, tmp_path / "zeros" / "model.safetensors", metadata={"format": "pt"})
    run = RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tmp_path / 'zeros'}", f"training.batching={batching}")
    with pytest.raises(TrainingError, match="step 1: The model's logits are all equal"):
        train_run(recipe, run, TrainingOptions())
    assert run.record["status"] == "failed" and not run.adapter.exists()
    assert len(json.loads((run.path / "bad_step.json").read_text(encoding="utf-8"))["rows"]) == 8


def test_a_learning_rate_beyond_reason_ends_in_a_sentence(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tiny_model}", "training.learning_rate=1e30", "training.warmup_ratio=0")
    with pytest.raises(TrainingError, match="Training stopped at step 2"):
        train_run(recipe, run, TrainingOptions())
    assert run.record["status"] == "failed" and not run.adapter.exists()
    found = json.loads((run.path / "bad_step.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in run.train_log.read_text(encoding="utf-8").splitlines()]
    assert found["step"] == log[-1]["step"] == 2 and log[-1]["loss"] is None
    assert all(row.startswith("nli-fr-train-") for row in found["rows"])


def test_a_resume_that_ends_well_leaves_no_bad_step(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tiny_model}")

    def stop(watch: DivergenceGuard, *_: Any, **__: Any) -> None:
        watch.stop(1, "The loss is nan.", None)

    with monkeypatch.context() as faulty, pytest.raises(TrainingError):
        faulty.setattr(DivergenceGuard, "on_log", stop)
        train_run(recipe, run, TrainingOptions())
    assert (run.path / "bad_step.json").is_file()
    train_run(recipe, run, TrainingOptions(resume=True))
    assert run.is_finished and not (run.path / "bad_step.json").exists()
