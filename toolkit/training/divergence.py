"""Numbers that cannot be right end training at the step that has them, and leave what is needed to look into it."""

import math
from pathlib import Path
from typing import Any, NoReturn

import torch

from toolkit.errors import StorageError, TrainingError
from toolkit.models.backend import TrainerCallback
from toolkit.utils.atomic_io import write_json

_SMALLEST_SCALE = 1.0
"""Of fp16's losses: below it gradients overflow that were not even scaled up, so no scale will help."""
_NOT_A_NUMBER = "Lower training.learning_rate, or set model.dtype to bfloat16 or float32."
_NOTHING_TO_LEARN = (
    "Stop earlier (training.epochs, training.max_steps), or see whether the answers stand in the prompts."
)


class DivergenceGuard(TrainerCallback):
    """Ends training at the first step whose numbers cannot be right.

    Args:
        path: where the step is described then: its number, row ids, learning rate, loss scale, loss and gradient norm.
        ids: of the training rows, in the order of the trainer's dataset.
    """

    def __init__(self, path: Path, ids: list[str]) -> None:
        self.path = path
        self._ids = ids
        self._rows = torch.tensor([], dtype=torch.long)
        self._scale: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove what an earlier start of the run left: the step it tells of is made again."""
        self.path.unlink(missing_ok=True)

    def begin_step(self, rows: torch.Tensor, scale: float | None) -> None:
        """Take down what a step begins with.

        Args:
            rows: [rows], their places in the trainer's dataset; of this process.
            scale: what fp16's losses are multiplied with; None without a scaler.
        """
        self._rows, self._scale = rows, scale

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Check what the trainer logged for a step; its closing summary is no step."""
        if logs is None or "loss" not in logs:
            return
        loss, norm, rate = logs["loss"], logs.get("grad_norm"), logs.get("learning_rate")
        metrics = {"learning_rate": rate, "loss": loss, "grad_norm": norm}
        if not math.isfinite(loss):
            self.stop(state.global_step, f"The loss is {loss}.", _NOT_A_NUMBER, **metrics)
        if loss == 0.0:
            self.stop(state.global_step, "The loss is exactly 0.0, so nothing is learnt.", _NOTHING_TO_LEARN, **metrics)
        if norm is not None and not math.isfinite(norm) and not self._is_skipped(args.fp16):
            self.stop(state.global_step, f"The norm of the gradient is {norm}.", _NOT_A_NUMBER, **metrics)

    def _is_skipped(self, fp16: bool) -> bool:
        """Whether fp16's scaler skips the step for its overflow: that is how it finds its scale."""
        return fp16 and (self._scale is None or self._scale >= _SMALLEST_SCALE)

    def stop(self, step: int, reason: str, hint: str | None, **metrics: float | None) -> NoReturn:
        """Describe the step in `path`, and end training.

        Raises:
            TrainingError: always.
        """
        json_metrics = {name: _json_value(value) for name, value in metrics.items()}
        rows = [self._ids[index] for index in self._rows.tolist()]
        details = f"Its rows are named in {self.path}."
        try:
            write_json(
                self.path, {"step": step, "what": reason, **json_metrics, "loss_scale": self._scale, "rows": rows}
            )
        except OSError as error:  # the number is the news, not that there was no room to describe its step
            is_full = isinstance(error, StorageError)
            details = str(error) if is_full else f"{self.path} could not be written: {error.strerror}."
        raise TrainingError(f"Training stopped at step {step}: {reason} {details}", hint=hint)


def _json_value(value: float | None) -> float | str | None:
    """JSON has neither NaN nor infinity, and here they are what matters: they are written as text."""
    return value if value is None or math.isfinite(value) else str(value)
