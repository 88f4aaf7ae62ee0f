"""Tests that training stops at the first bad loss or gradient and describes that step in bad_step.json."""

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
def guard(tmp_path: Path) -> DivergenceGuard:
    """A guard that has begun a step with the rows c and a."""
    guard = DivergenceGuard(tmp_path / "bad_step.json", ["a", "b", "c"])
    guard.begin_step(torch.tensor([2, 0]), None)
    return guard


def log_step(guard: DivergenceGuard, *, fp16: bool = False, **logs: float) -> None:
    guard.on_log(SimpleNamespace(fp16=fp16), SimpleNamespace(global_step=7), None, {"learning_rate": 0.1, **logs})


@pytest.mark.parametrize(
    ("logs", "sentence", "hint"),
    [
        ({"loss": math.nan}, "step 7: The loss is nan.", "training.learning_rate"),
        ({"loss": math.inf, "grad_norm": 1.0}, "step 7: The loss is inf.", "training.learning_rate"),
        ({"loss": 0.0}, "step 7: The loss is exactly 0.0, so nothing is left to learn.", "training.max_steps"),
        ({"loss": 1.0, "grad_norm": math.inf}, "step 7: The gradient norm is inf.", "model.dtype"),
    ],
)
def test_first_bad_loss_or_gradient_stops_training(
    guard: DivergenceGuard, logs: dict[str, float], sentence: str, hint: str
) -> None:
    log_step(guard, loss=1.0, grad_norm=2.0)
    assert not guard.path.exists()
    with pytest.raises(TrainingError, match=sentence) as stopped:
        log_step(guard, **logs)
    assert str(guard.path) in str(stopped.value) and hint in (stopped.value.hint or "")
    description = json.loads(guard.path.read_text(encoding="utf-8"))
    assert description["step"] == 7 and description["rows"] == ["c", "a"] and description["learning_rate"] == 0.1
    for name, value in logs.items():
        assert str(description[name]) == str(value)


@pytest.mark.parametrize(
    ("error", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system")]
)
def test_reason_is_reported_when_the_disk_fails(
    guard: DivergenceGuard, monkeypatch: pytest.MonkeyPatch, error: int, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "write_text", fail)
    message = rf"step 7: The loss is nan\. .*bad_step\.json could not be written: {reason}\."
    with pytest.raises(TrainingError, match=message) as stopped:
        log_step(guard, loss=math.nan)
    assert "training.learning_rate" in (stopped.value.hint or "")


def test_overflow_under_fp16_is_skipped_until_scale_one(guard: DivergenceGuard) -> None:
    for scale in (65_536.0, 1.0):
        guard.begin_step(torch.tensor([1]), scale)
        log_step(guard, fp16=True, loss=1.0, grad_norm=math.inf)
    guard.begin_step(torch.tensor([1]), 0.5)
    with pytest.raises(TrainingError, match="The gradient norm is inf"):
        log_step(guard, fp16=True, loss=1.0, grad_norm=math.inf)
    assert json.loads(guard.path.read_text(encoding="utf-8"))["loss_scale"] == 0.5


def test_loss_over_labels_can_be_zero(tmp_path: Path) -> None:
    guard = DivergenceGuard(tmp_path / "bad_step.json", ["a"], stops_at_zero=False)
    log_step(guard, loss=0.0, grad_norm=0.0)
    with pytest.raises(TrainingError, match="The loss is nan"):
        log_step(guard, loss=math.nan)


def test_final_summary_is_not_checked(guard: DivergenceGuard) -> None:
    guard.on_log(SimpleNamespace(fp16=False), SimpleNamespace(global_step=7), None, {"train_loss": 0.0})
    assert not guard.path.exists()


def test_step_without_predictions_stops_training(guard: DivergenceGuard) -> None:
    class Trainer(MicroBatchAccumulationMixin):
        divergence_guard = guard
        accelerator = SimpleNamespace(scaler=None, reduce=lambda counts, _: counts)
        lr_scheduler = SimpleNamespace(get_last_lr=lambda: [0.25])
        state = SimpleNamespace(global_step=3)
        _prepare_inputs = staticmethod(lambda inputs: inputs)

    step: dict[str, Any] = {"micro_batches": [], "predictions": torch.zeros(1), "tokens": torch.tensor([9])}
    with pytest.raises(TrainingError, match=r"step 4: No token of this step contributes to the loss\."):
        Trainer().training_step(torch.nn.Identity(), {**step, "rows": torch.tensor([1])})
    description = json.loads(guard.path.read_text(encoding="utf-8"))
    assert (description["rows"], description["learning_rate"]) == (["b"], 0.25)


def test_constant_logits_are_refused() -> None:
    logits = torch.full((1, 3, 5), 0.25)
    with pytest.raises(TrainingError, match="all equal"):
        check_logits_differ(logits)
    logits[0, 1, 2] += 1
    check_logits_differ(logits)


@pytest.mark.parametrize("batching", ["padded", "auto"])
def test_all_zero_model_fails_at_first_step(
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


def test_huge_learning_rate_stops_training(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tiny_model}", "training.learning_rate=1e30", "training.warmup_ratio=0")
    with pytest.raises(TrainingError, match="Training stopped at step 2"):
        train_run(recipe, run, TrainingOptions())
    assert run.record["status"] == "failed" and not run.adapter.exists()
    description = json.loads((run.path / "bad_step.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in run.train_log.read_text(encoding="utf-8").splitlines()]
    assert description["step"] == log[-1]["step"] == 2 and log[-1]["loss"] is None
    assert all(row.startswith("nli-fr-train-") for row in description["rows"])


def test_successful_resume_removes_bad_step_file(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    recipe = make_recipe(f"model.name={tiny_model}")

    def stop(guard: DivergenceGuard, *_: Any, **__: Any) -> None:
        guard.stop(1, "The loss is nan.", None)

    with monkeypatch.context() as faulty, pytest.raises(TrainingError):
        faulty.setattr(DivergenceGuard, "on_log", stop)
        train_run(recipe, run, TrainingOptions())
    assert (run.path / "bad_step.json").is_file()
    train_run(recipe, run, TrainingOptions(resume=True))
    assert run.is_finished and not (run.path / "bad_step.json").exists()
