"""The settings of a pre-training run, its stages and its progress."""

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Stage:
    """A part of training with its own mixture of exercises; its learning rates fall to a fiftieth of these peaks."""

    steps: int
    muon_rate: float
    adam_rate: float
    warmup: int = 30

    def rate(self, step: int) -> float:
        """Return the share of the peak rates at a step of the stage: linear warm-up, then a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


class StagePosition(NamedTuple):
    """The stage of a step, the number of that stage from 0, and how many of its steps come before."""

    number: int
    stage: Stage
    done: int


@dataclass(frozen=True)
class Settings:
    """The settings that decide a run: steps of `rows` rows of `length` tokens."""

    steps: int = 9700
    seed: int = 7
    rows: int = 8
    length: int = 256
    save_every: int = 100

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages: words first; then signs and roles, which build on them; then verdicts; then all again."""
        first, second, third = (self.steps * share // 97 for share in (28, 18, 27))
        last = self.steps - first - second - third
        return Stage(first, 0.02, 2e-3), Stage(second, 0.01, 1e-3), Stage(third, 0.01, 1e-3), Stage(last, 0.01, 1e-3)

    def stage_at(self, step: int) -> StagePosition:
        """Return the position of a step of the run in the stages.

        Raises:
            ValueError: the run has fewer steps.
        """
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return StagePosition(number, stage, step)
            step -= stage.steps
        raise ValueError("past the last step")


@dataclass
class Progress:
    """The progress of a run; `losses` holds the mean loss of every 50 steps."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    losses: list[float] | None = None
