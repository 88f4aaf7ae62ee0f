"""A probe of a few real training steps, which measures how long the run would take."""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.models.backend import TrainerCallback
from toolkit.models.tree_attention import accept_trees
from toolkit.planning.job import TrainingJob
from toolkit.training.trainer import step_errors
from toolkit.training.training_backends import TRAINING_BACKENDS

_STEPS = 4


@dataclass(frozen=True)
class Probe:
    """The median time of an optimizer step, and the time of all steps of the run, both in seconds."""

    step_seconds: float
    run_seconds: float

    def __str__(self) -> str:
        return f"{self.step_seconds:.2f} s per step, {self.run_seconds / 60:,.1f} minutes for all steps"


class _StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._step_start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_start = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.monotonic() - self._step_start)


def probe(job: TrainingJob) -> Probe:
    """Load the model and train for a few steps in a temporary folder.

    Raises:
        ToolkitError: If the model cannot be loaded or training has to stop.
    """
    steps = min(_STEPS, job.plan.steps)
    training = job.recipe.training.model_copy(update={"max_steps": steps, "report_to": "none"})
    recipe = job.recipe.model_copy(update={"training": training})
    short_job = replace(job, preflight=replace(job.preflight, recipe=recipe), plan=replace(job.plan, steps=steps))
    backend, step_times = TRAINING_BACKENDS[recipe.model.kind], _StepTimes()
    model = backend.load(short_job)
    if job.plan.is_tree:
        accept_trees(model)
    with step_errors(), TemporaryDirectory() as folder:
        trainer = backend.make_trainer(short_job, model, Path(folder) / "checkpoints")
        trainer.add_callback(step_times)
        trainer.train()
    seconds = statistics.median(step_times.seconds[1:] or step_times.seconds)  # the first step is a warm-up
    return Probe(seconds, seconds * job.plan.steps)
