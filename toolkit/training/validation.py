"""Validation during training: the scores of the dev rows, the best step, and the step after which training stops early.

The best step and an early stop follow from the trainer's log history, which is in each checkpoint. So a run that is
killed at any moment and resumed chooses the same step, and stops after the same one.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.evaluation.calibration import apply_temperature, label_indices, probability_scores
from toolkit.evaluation.intervals import macro_f1
from toolkit.inference.label_scorers import LabelScores, make_training_scorer
from toolkit.models.backend import TrainerCallback, broadcast_from_main_process
from toolkit.models.tree_attention import preserve_tree_settings
from toolkit.planning.job import Plan, TrainingJob
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import IS_MAIN_PROCESS
from toolkit.training.atomic_checkpoints import STATE_FILE
from toolkit.training.callbacks import DEV_METRICS
from toolkit.training.checkpoint_state import capture_rng_state, restore_rng_state
from toolkit.utils.progress import show_progress

Entry = dict[str, Any]
"""The entry of a step in a trainer's log history. After a validation it has DEV_METRICS and `dev_seconds`."""


def validations(history: Sequence[Entry]) -> list[Entry]:
    """Return the entries of the steps that were followed by a validation."""
    return [entry for entry in history if "dev_nll" in entry]


@dataclass(frozen=True)
class StepChoice:
    """The rule that chooses the step to keep and stops training early.

    Args:
        metric: The metric of the dev rows by which steps are compared: nll, accuracy or macro_f1.
        patience: The number of validations without improvement after which training stops. None for no early stop.
        keeps_best: Whether the best step is kept instead of the last one.
    """

    metric: str
    patience: int | None
    keeps_best: bool

    @classmethod
    def of(cls, recipe: Recipe) -> "StepChoice":
        """Return the rule of a recipe."""
        training = recipe.training
        return cls(training.best_metric, training.early_stopping_patience, training.keep == "best")

    def find_best(self, history: Sequence[Entry]) -> Entry | None:
        """Return the entry of the best step, the earliest one on a tie. None before the first validation."""
        sign = 1 if self.metric == "nll" else -1
        return min(validations(history), key=lambda entry: sign * entry[f"dev_{self.metric}"], default=None)

    def should_stop_early(self, history: Sequence[Entry]) -> bool:
        """Return True if training has to stop because the last validations brought no improvement."""
        best = self.find_best(history)
        if self.patience is None or best is None:
            return False
        return sum(entry["step"] > best["step"] for entry in validations(history)) >= self.patience

    def is_complete(self, history: Sequence[Entry], plan: Plan) -> bool:
        """Return True if no step is left: the last one of the plan was trained, or training has stopped early."""
        last_step = max((entry["step"] for entry in history), default=0)
        return last_step == plan.steps or self.should_stop_early(history)

    def needed_step(self, checkpoint: Path) -> int | None:
        """Return the step whose checkpoint must be kept along with a checkpoint: the best one at its time, if any."""
        if not self.keeps_best:
            return None
        try:
            best = self.find_best(read_history(checkpoint))
        except (OSError, ValueError, LookupError, TypeError):  # it is damaged, so nothing will resume from it
            return None
        return None if best is None else int(best["step"])


def read_history(checkpoint: Path) -> list[Entry]:
    """Return the log history in a checkpoint that is intact."""
    history: list[Entry] = json.loads((checkpoint / STATE_FILE).read_bytes())["log_history"]
    return history


@dataclass(frozen=True)
class ValidationResult:
    """The outcome of the validations of a complete run.

    Args:
        job: The job.
        history: The log history of the run.
    """

    job: TrainingJob
    history: Sequence[Entry]

    @property
    def choice(self) -> StepChoice:
        """The rule that chose the step."""
        return StepChoice.of(self.job.recipe)

    @property
    def best(self) -> Entry:
        """The entry of the best step."""
        best = self.choice.find_best(self.history)
        if best is None:
            raise ValueError("the last step of a complete run was not validated")
        return best

    @property
    def last_step(self) -> int:
        """The last step that was trained."""
        return int(validations(self.history)[-1]["step"])

    @property
    def is_stopped_early(self) -> bool:
        """True if steps of the plan were left out."""
        return self.last_step < self.job.plan.steps

    @property
    def kept_step(self) -> int:
        """The step whose weights are the adapter."""
        return self.best["step"] if self.choice.keeps_best else self.last_step

    @property
    def seconds(self) -> float:
        """The time that all validations took."""
        return round(sum(entry["dev_seconds"] for entry in validations(self.history)), 3)

    def record(self) -> dict[str, Any]:
        """Return the outcome for run.json."""
        return {
            "rows": len(self.job.preflight.dev_rows),
            "eval_steps": self.job.plan.eval_steps,
            "reason": self.job.plan.eval_reason,
            "metric": self.choice.metric,
            "best_step": self.best["step"],
            "best": {name: self.best[name] for name in DEV_METRICS},
            "kept_step": self.kept_step,
            "last_step": self.last_step,
            "stopped_early": self.is_stopped_early,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        best, steps = self.best, f"step {self.last_step:,} of {self.job.plan.steps:,}"
        stop = f"stopped early after {steps}; " if self.is_stopped_early else ""
        scores = f"dev nll {best['dev_nll']:.4f}, accuracy {best['dev_accuracy']:.1%}"
        kept = "kept" if self.kept_step == best["step"] else f"the last step, {self.last_step:,}, is kept"
        return f"{stop}best step {best['step']:,} ({scores}), {kept}"


class Validation(TrainerCallback):
    """A callback that scores the dev rows every `eval_steps` steps and after the last step of the plan.

    It must run before the callbacks that read the log of a step. If training is interrupted at another step, that step
    is not validated, because an uninterrupted run would not validate it either.

    Args:
        job: The job, with dev rows and a plan with `eval_steps`.
    """

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        self._choice = StepChoice.of(job.recipe)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Entry | None = None, model: Any = None, **_: Any
    ) -> None:
        """Add the scores to the log of a step, and request a checkpoint or the end of training if they call for it."""
        plan, step = self._job.plan, state.global_step
        is_due = step == plan.steps or step % (plan.eval_steps or plan.steps) == 0
        # After a loss of NaN, DivergenceGuard ends the run.
        if not is_due or logs is None or not math.isfinite(logs.get("loss", math.nan)):
            return
        # The other processes wait for the scores, so that all of them make the same decision.
        scores = broadcast_from_main_process(score_dev_rows(model, self._job) if IS_MAIN_PROCESS else None)
        entry, history = state.log_history[-1], state.log_history
        entry.update(scores)
        logs.update(scores)
        if self._choice.keeps_best and self._choice.find_best(history) is entry:
            control.should_save = True
        if self._choice.should_stop_early(history):
            control.should_save = control.should_training_stop = True


def score_dev_rows(model: Any, job: TrainingJob) -> dict[str, float]:
    """Score the dev rows as `run.evaluate()` will score rows with the saved adapter.

    Args:
        model: The model that is being trained. Its mode and the random states do not change.
        job: The job, with dev rows.

    Returns:
        DEV_METRICS, which are NaN if a score is NaN or infinite, and `dev_seconds`.
    """
    start, preflight = time.monotonic(), job.preflight
    with _evaluation_mode(model, is_decoder=job.recipe.model.kind == "decoder"), show_progress(False):
        # A new scorer each time: it verifies its trees with the current weights, so the scores depend on them only.
        scorer = make_training_scorer(model, job.recipe, preflight.row_tokenizer, preflight.precision)
        scores = scorer.score_labels(preflight.dev_rows)
    metrics = dev_metrics(scores, [example.label for example in preflight.splits.dev])
    return {**metrics, "dev_seconds": round(time.monotonic() - start, 3)}


def dev_metrics(scores: LabelScores, gold: Sequence[str]) -> dict[str, float]:
    """Compute the metrics of an evaluation under the names of the training log."""
    if not np.isfinite(scores.log_likelihoods).all():
        return dict.fromkeys(DEV_METRICS, math.nan)
    labels = len(scores.labels)
    expected, predicted = (label_indices(names, scores.labels) for names in (gold, scores.decoded))
    is_correct = expected == predicted
    counts = [np.bincount(indices, minlength=labels) for indices in (expected[is_correct], expected, predicted)]
    return {
        "dev_accuracy": float(is_correct.mean()),
        "dev_macro_f1": float(macro_f1(*counts)),
        "dev_nll": probability_scores(apply_temperature(scores.log_likelihoods, 1.0), expected).nll,
    }


@contextmanager
def _evaluation_mode(model: Any, *, is_decoder: bool) -> Iterator[None]:
    """Put a model into evaluation mode, and restore its state and the random states afterwards."""
    was_training, random_states = model.training, capture_rng_state()
    model.eval()
    try:
        with preserve_tree_settings(model) if is_decoder else nullcontext():
            yield
    finally:
        model.train(was_training)
        restore_rng_state(random_states)
