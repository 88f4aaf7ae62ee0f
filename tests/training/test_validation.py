"""Tests of validation during training: it changes no weights, equals an evaluation, and survives interruptions."""

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toolkit
from tests.training.test_kills import contents, without_seconds
from tests.training.test_training_run import log
from toolkit.errors import RunError, TrainingError
from toolkit.inference.label_scorers import LabelScores, TrieLabelScorer
from toolkit.inference.torch_scorer import TorchScorer
from toolkit.models.backend import DEVICE
from toolkit.models.tree_attention import UNSLOTH_FLAGS, accept_trees, preserve_tree_settings
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training import fit, validation
from toolkit.training.atomic_checkpoints import AtomicCheckpointMixin
from toolkit.training.callbacks import Progress
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.training.validation import StepChoice, dev_metrics

MakeRecipe = Callable[..., Recipe]
DEV = "data.dev={path: 'embedded:nli-fr', split: test, limit: 24}"


def train(recipe: Recipe, path: Path, *, resume: bool = False) -> RunFolder:
    run = RunFolder(path)
    train_run(recipe, run, TrainingOptions(resume=resume))
    return run


def history(*scores: float, name: str = "dev_nll") -> list[dict[str, Any]]:
    """Return a log history with a validation after every second step."""
    entries = [{"step": step, "loss": 1.0} for step in range(1, 2 * len(scores) + 1)]
    validated = {"dev_nll": 1.0, "dev_accuracy": 0.5, "dev_macro_f1": 0.5}
    for entry, score in zip(entries[1::2], scores, strict=True):
        entry.update(validated | {name: score})
    return entries


@pytest.mark.parametrize(
    ("metric", "scores", "step"),
    [
        ("nll", (0.9, 0.7, 0.8), 4),
        ("accuracy", (0.9, 0.7, 0.8), 2),
        ("macro_f1", (0.7, 0.9, 0.8), 4),
        ("nll", (0.9, 0.7, 0.7), 4),
        ("accuracy", (0.7, 0.9, 0.9), 4),
    ],
)
def test_best_step_has_the_best_metric(metric: str, scores: tuple[float, ...], step: int) -> None:
    """The earliest of equal steps is the best one."""
    best = StepChoice(metric, None, True).find_best(history(*scores, name=f"dev_{metric}"))
    assert best is not None and best["step"] == step


def test_no_step_is_best_before_a_validation() -> None:
    choice = StepChoice("nll", 1, True)
    assert choice.find_best([{"step": 1, "loss": 1.0}]) is None and not choice.should_stop_early([])


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ((0.9, 0.8), 1, False),
        ((0.9, 0.8, 0.8), 1, True),
        ((0.9, 0.8, 0.85), 2, False),
        ((0.9, 0.8, 0.85, 0.81), 2, True),
        ((0.9, 0.8, 0.85, 0.79), 2, False),
        ((0.9, 0.8, 0.85, 0.81), None, False),
    ],
)
def test_patience_counts_validations_without_improvement(
    scores: tuple[float, ...], patience: int | None, stops: bool
) -> None:
    assert StepChoice("nll", patience, False).should_stop_early(history(*scores)) is stops


def test_dev_metrics_equal_hand_computed_values() -> None:
    scores = np.log(np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.1], [0.3, 0.3, 0.4]]))
    metrics = dev_metrics(LabelScores(("a", "b", "c"), ["a", "a", "c"], scores), ["a", "b", "c"])
    assert metrics["dev_accuracy"] == pytest.approx(2 / 3)
    # F1 of a: 2 / (1 + 2), of b: 0, of c: 1.
    assert metrics["dev_macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    # The second row's likelihoods sum to 0.5, so its probability of b is 0.4.
    assert metrics["dev_nll"] == pytest.approx(-np.log([0.8, 0.4, 0.4]).mean())


@pytest.mark.parametrize("batching", ["prefix_tree", "padded"])
def test_validation_does_not_change_decoder_weights(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, batching: str
) -> None:
    common = [f"model.name={tiny_model}", DEV, "lora.dropout=0.1", f"training.batching={batching}"]
    never = train(make_recipe(*common, "training.eval_steps=null"), tmp_path / "never")
    always = train(make_recipe(*common, "training.eval_steps=1"), tmp_path / "always")
    assert contents(always.adapter) == contents(never.adapter)
    assert [row["loss"] for row in log(always.path)] == [row["loss"] for row in log(never.path)]
    assert "validation" not in never.record and "dev_nll" not in log(never.path)[0]
    assert all(math.isfinite(row["dev_nll"]) for row in log(always.path))


@pytest.mark.parametrize("lora", ["lora.dropout=0.1", "lora=null"])
def test_validation_does_not_change_encoder_weights(make_encoder_recipe: MakeRecipe, tmp_path: Path, lora: str) -> None:
    never = train(make_encoder_recipe(DEV, lora, "training.eval_steps=null"), tmp_path / "never")
    always = train(make_encoder_recipe(DEV, lora, "training.eval_steps=1"), tmp_path / "always")
    assert contents(always.adapter) == contents(never.adapter)
    assert len([row for row in log(always.path) if "dev_nll" in row]) == 3


def test_random_draws_while_scoring_change_nothing(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout masks are drawn from torch's generator, and some models draw numbers while they are evaluated."""
    recipe = make_recipe(f"model.name={tiny_model}", DEV, "lora.dropout=0.1", "training.eval_steps=1")
    expected = train(recipe, tmp_path / "expected")
    score = TrieLabelScorer.score_labels

    def score_labels(self: TrieLabelScorer, *arguments: Any) -> LabelScores:
        random.random(), np.random.rand(), torch.rand(1)
        return score(self, *arguments)

    monkeypatch.setattr(TrieLabelScorer, "score_labels", score_labels)
    assert contents(train(recipe, tmp_path / "drawn").adapter) == contents(expected.adapter)


def test_tree_settings_are_restored(tiny_model: Path) -> None:
    from toolkit.models.backend import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for accepted in (False, True):
        accept_trees(model, accepted)
        with preserve_tree_settings(model):
            accept_trees(model, not accepted)
        assert [getattr(model.get_decoder(), flag) for flag in UNSLOTH_FLAGS] == [accepted] * len(UNSLOTH_FLAGS)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_dev_scores_equal_an_evaluation(
    make_recipe: MakeRecipe, make_encoder_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """The last step's metrics equal those of the saved adapter on the same rows."""
    recipe = (
        make_recipe(f"model.name={tiny_model}", DEV, "training.learning_rate=0.02")
        if kind == "decoder"
        else make_encoder_recipe(DEV)
    )
    run = train(recipe, tmp_path / "run")
    last = log(run.path)[-1]
    evaluation = toolkit.open_run(run.path).evaluate(data="embedded:nli-fr:test", limit=24)
    assert last["dev_accuracy"] == evaluation.accuracy
    assert last["dev_macro_f1"] == pytest.approx(evaluation.macro_f1, abs=1e-12)
    assert last["dev_nll"] == pytest.approx(evaluation.metrics["nll"], abs=1e-5 if DEVICE == "cpu" else 1e-2)


@pytest.fixture(scope="module")
def stopping_recipe(make_recipe: MakeRecipe, tiny_model: Path) -> Recipe:
    """A recipe whose dev nll rises before the last of its 16 steps."""
    return make_recipe(
        f"model.name={tiny_model}", DEV, "lora.dropout=0.1", "training.max_steps=16", "training.learning_rate=0.02",
        "training.save_steps=4", "training.save_total_limit=1", "training.eval_steps=2", "training.keep=best",
        "training.early_stopping_patience=2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def stopped(stopping_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that stopped early, for comparison. Tests must not change it."""
    run = train(stopping_recipe, tmp_path_factory.mktemp("outputs") / "run")
    outcome = run.record["validation"]
    assert outcome["stopped_early"] and outcome["best_step"] < outcome["last_step"] - 2
    return run


def checkpoint_names(run: RunFolder) -> set[str]:
    return {path.name for path in run.checkpoints.iterdir()}


def assert_same_outcome(run: RunFolder, expected: RunFolder) -> None:
    assert contents(run.adapter) == contents(expected.adapter)
    assert without_seconds(run.train_log) == without_seconds(expected.train_log)
    outcomes = [dict(folder.record["validation"]) for folder in (run, expected)]
    assert all(outcome.pop("seconds") > 0 for outcome in outcomes) and outcomes[0] == outcomes[1]
    assert checkpoint_names(run) == checkpoint_names(expected)


def test_early_stop_keeps_the_best_step(stopped: RunFolder) -> None:
    outcome, rows = stopped.record["validation"], [row for row in log(stopped.path) if "dev_nll" in row]
    best = min(rows, key=lambda row: row["dev_nll"])
    assert outcome["best_step"] == outcome["kept_step"] == best["step"]
    assert outcome["best"] == {name: best[name] for name in ("dev_accuracy", "dev_macro_f1", "dev_nll")}
    assert outcome["last_step"] == log(stopped.path)[-1]["step"] == best["step"] + 4
    assert (outcome["rows"], outcome["eval_steps"], outcome["metric"]) == (24, 2, "nll")
    assert stopped.record["timings"]["validation_seconds"] == pytest.approx(outcome["seconds"], abs=0.01)
    assert stopped.record["eval_steps"] == 2 and "the recipe sets training.eval_steps" in outcome["reason"]
    assert checkpoint_names(stopped) == {f"checkpoint-{outcome[key]}" for key in ("best_step", "last_step")}


def test_kept_adapter_scores_like_its_step(stopped: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(stopped.path, tmp_path / "run")
    evaluation = toolkit.open_run(tmp_path / "run").evaluate(data="embedded:nli-fr:test", limit=24)
    assert evaluation.metrics["nll"] == pytest.approx(stopped.record["validation"]["best"]["dev_nll"], abs=1e-5)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str, int], None]]:
    """A function that makes the nth call of a function raise KeyboardInterrupt, once."""

    def install(owner: Any, name: str, count: int) -> None:
        original, calls = getattr(owner, name), iter(range(1, count))

        def replacement(*arguments: Any, **keywords: Any) -> Any:
            if next(calls, None) is not None:
                return original(*arguments, **keywords)
            monkeypatch.setattr(owner, name, original)
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, name, replacement)

    yield install


def send_signal_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    advance = Progress.on_step_end

    def on_step_end(self: Progress, args: Any, state: Any, control: Any, **rest: Any) -> None:
        advance(self, args, state, control, **rest)
        if state.global_step == step:
            monkeypatch.setattr(Progress, "on_step_end", advance)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)


def test_interruptions_do_not_change_the_outcome(
    stopping_recipe: Recipe,
    stopped: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[Any, str, int], None],
) -> None:
    """They occur in a validation, before its checkpoint, at a step without one, and before the adapter is written."""
    moments: list[Callable[[], None]] = [
        lambda: interrupt(validation, "dev_metrics", 3),
        lambda: interrupt(AtomicCheckpointMixin, "_save_checkpoint", 2),
        lambda: send_signal_at(monkeypatch, 9),
        lambda: interrupt(fit, "save_adapter", 1),
    ]
    for number, prepare in enumerate(moments):
        prepare()
        with pytest.raises(KeyboardInterrupt):
            train(stopping_recipe, tmp_path / "run", resume=number > 0)
        assert not (tmp_path / "run" / "adapter").exists()
    # The run has stopped early, so no step is left.
    monkeypatch.setattr(AtomicCheckpointMixin, "_save_checkpoint", None)
    assert_same_outcome(train(stopping_recipe, tmp_path / "run", resume=True), stopped)


def test_signal_at_an_early_stop_completes(
    stopping_recipe: Recipe, stopped: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_signal_at(monkeypatch, stopped.record["validation"]["last_step"])
    assert_same_outcome(train(stopping_recipe, tmp_path / "run"), stopped)


def damage_best(run: RunFolder, expected: RunFolder) -> None:
    best = run.checkpoints / f"checkpoint-{expected.record['validation']['best_step']}"
    os.truncate(best / "adapter.safetensors", 100)


def test_damaged_best_checkpoint_repeats_its_steps(
    stopping_recipe: Recipe,
    stopped: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is written without the best weights, and a resumed run repeats the steps that lead to them."""
    run, save = RunFolder(tmp_path / "run"), AtomicCheckpointMixin._save_checkpoint

    def damage_after_last(self: AtomicCheckpointMixin, *arguments: Any) -> None:
        save(self, *arguments)
        if self.state.global_step == stopped.record["validation"]["last_step"]:
            damage_best(run, stopped)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=r"is damaged \(adapter"):
        patch.setattr(AtomicCheckpointMixin, "_save_checkpoint", damage_after_last)
        train_run(stopping_recipe, run, TrainingOptions())
    assert not run.adapter.exists() and run.record["status"] == "failed"
    caplog.set_level("INFO", logger="toolkit")
    train_run(stopping_recipe, run, TrainingOptions(resume=True))
    assert "the checkpoint of its best step" in caplog.text
    assert_same_outcome(run, stopped)


def test_other_dev_rows_are_refused(stopping_recipe: Recipe, stopped: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(stopped.path, run.path)
    record = run.record
    record["data"]["dev"]["fingerprint"] = "abc"
    run.update(status="running", data=record["data"])
    with pytest.raises(RunError, match=r"started with data\.dev\.fingerprint 'abc' \(now '"):
        train_run(stopping_recipe, run, TrainingOptions(resume=True))


def test_scores_of_nan_stop_training(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = TorchScorer.score

    def score_one_nan(self: TorchScorer, prompts: Any) -> np.ndarray:
        scores = score(self, prompts)
        scores[3, 0] = np.nan
        return scores

    monkeypatch.setattr(TorchScorer, "score", score_one_nan)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"stopped at step 2: The model returned NaN or inf for dev rows"):
        train_run(make_recipe(f"model.name={tiny_model}", DEV, "training.eval_steps=2"), run, TrainingOptions())
    assert [row.get("dev_nll") for row in log(run.path)] == [None, None] and "dev_nll" in log(run.path)[1]
    assert json.loads((run.path / "bad_step.json").read_text(encoding="utf-8"))["step"] == 2
    assert not run.adapter.exists()


def test_last_step_is_always_validated(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    run = train(make_recipe(f"model.name={tiny_model}", DEV, "training.eval_steps=2"), tmp_path / "run")
    assert [row["step"] for row in log(run.path) if "dev_nll" in row] == [2, 3]
    assert (run.record["validation"]["kept_step"], run.record["validation"]["stopped_early"]) == (3, False)
    assert "validation  every 2 steps and after the last one: the recipe sets" in caplog.text
    assert "validation  best step " in caplog.text


def test_validation_runs_before_the_log(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    """Trackers and the progress bar get the scores with the loss of the same step."""
    seen = []

    class Tracker(Progress):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            seen.append(dict(logs))

    recipe = make_recipe(f"model.name={tiny_model}", DEV, "training.eval_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.training.trainer.Progress", Tracker)
        train(recipe, tmp_path / "run")
    assert [("loss" in logs, "dev_nll" in logs) for logs in seen] == [
        (True, False),
        (True, True),
        (True, True),
        (False, False),
    ]
