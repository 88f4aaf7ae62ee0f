"""The settings of a pre-training run, its stages and its progress."""

import math
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Stage:
    """A stage of training with its own mixture of exercises. Its learning rates decay to 2% of these peaks."""

    steps: int
    muon_rate: float
    adam_rate: float
    warmup: int = 30

    def rate(self, step: int) -> float:
        """Return the factor of the peak learning rates at a step: linear warm-up, then cosine decay."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


class StagePosition(NamedTuple):
    """The stage of a step, its number from 0, and the number of steps that are already done in it."""

    number: int
    stage: Stage
    done: int


@dataclass(frozen=True)
class Settings:
    """The settings of a run, whose steps have `rows` rows of `length` tokens each."""

    steps: int = 9700
    seed: int = 7
    rows: int = 8
    length: int = 256
    save_every: int = 100

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The four stages: words, then polarity and roles (which build on words), then verdicts, then everything."""
        first, second, third = (self.steps * share // 97 for share in (28, 18, 27))
        last = self.steps - first - second - third
        return Stage(first, 0.02, 2e-3), Stage(second, 0.01, 1e-3), Stage(third, 0.01, 1e-3), Stage(last, 0.01, 1e-3)

    def stage_at(self, step: int) -> StagePosition:
        """Return the stage of a step and the position of the step in it.

        Raises:
            ValueError: If the run has fewer steps.
        """
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return StagePosition(number, stage, step)
            step -= stage.steps
        raise ValueError("The step is after the last stage.")


@dataclass
class Progress:
    """The progress of a run, with the mean loss of every 50 steps."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    losses: list[float] | None = None
