"""A few steps of the real trainer that leave nothing behind: what a step takes, before hours of them are begun."""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.model.attention import accept_trees
from toolkit.model.backend import TrainerCallback
from toolkit.out_of_memory import step_errors
from toolkit.preflight import Preflight
from toolkit.training.plan import Plan
from toolkit.training.ways import WAYS

_STEPS = 4


@dataclass(frozen=True)
class Probe:
    """Seconds of a step, the median of those behind the first, and what all steps of the run would take."""

    step_seconds: float
    run_seconds: float

    def __str__(self) -> str:
        return f"{self.step_seconds:.2f} s a step, {self.run_seconds / 60:,.1f} minutes for all steps"


class _StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.monotonic() - self._begun)


def probe(before: Preflight[Any], plan: Plan) -> Probe:
    """Load the model and train on the first steps' rows, in a folder that is gone at the end.

    Args:
        before: the recipe and its rows.
        plan: the run's steps.

    Raises:
        ToolkitError: the model cannot be loaded, or a step has numbers that cannot be right.
    """
    steps = min(_STEPS, plan.steps)
    training = before.recipe.training.model_copy(update={"max_steps": steps})
    short = replace(before, recipe=before.recipe.model_copy(update={"training": training}))
    way, times = WAYS[before.recipe.model.kind], _StepTimes()
    model = way.load(short, plan)
    if plan.is_tree:
        accept_trees(model)
    with step_errors(), TemporaryDirectory() as folder:
        trainer = way.make_trainer(short, replace(plan, steps=steps), model, Path(folder) / "checkpoints")
        trainer.add_callback(times)
        trainer.train()
    seconds = statistics.median(times.seconds[1:] or times.seconds)  # the first step warms up
    return Probe(seconds, seconds * plan.steps)
