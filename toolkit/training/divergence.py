"""Detection of diverged training: it stops at the first bad loss or gradient and records the rows of that step."""

import math
from pathlib import Path
from typing import Any, NoReturn

import torch

from toolkit.errors import StorageError, TrainingError
from toolkit.models.backend import TrainerCallback
from toolkit.utils.atomic_io import write_json

_SMALLEST_SCALE = 1.0
"""The smallest useful loss scale of fp16. Gradients that overflow below it were not even scaled up."""
_NOT_FINITE_HINT = "Lower training.learning_rate, or set model.dtype to bfloat16 or float32."
_ZERO_LOSS_HINT = (
    "Stop earlier (training.epochs, training.max_steps), or check whether the prompts contain the answers."
)


class DivergenceGuard(TrainerCallback):
    """A callback that stops training at the first step with a loss or gradient norm that cannot be right.

    Args:
        path: The JSON file that describes this step: its number, row ids, learning rate, loss scale, loss and gradient
            norm.
        ids: The ids of the training rows, in the order of the trainer's dataset.
        stops_at_zero: Whether a loss of exactly 0 stops training. In float32, the loss over a few labels is 0 as soon
            as the logits of a right answer lead by about 17, so there it is no fault.
    """

    def __init__(self, path: Path, ids: list[str], *, stops_at_zero: bool = True) -> None:
        self.path = path
        self._stops_at_zero = stops_at_zero
        self._ids = ids
        self._rows = torch.tensor([], dtype=torch.long)
        self._scale: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove the file left by an earlier attempt, whose bad step is about to be repeated."""
        self.path.unlink(missing_ok=True)

    def begin_step(self, rows: torch.Tensor, scale: float | None) -> None:
        """Record the rows and the loss scale of a step before it runs.

        Args:
            rows: [rows], this process's rows as indices into the trainer's dataset.
            scale: The loss scale of fp16; None in other precisions.
        """
        self._rows, self._scale = rows, scale

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Check the loss, gradient norm and validation of a step. The summary at the end of training is skipped."""
        if logs is None or "loss" not in logs:
            return
        loss, norm, rate = logs["loss"], logs.get("grad_norm"), logs.get("learning_rate")
        metrics = {"learning_rate": rate, "loss": loss, "grad_norm": norm}
        if not math.isfinite(loss):
            self.stop(state.global_step, f"The loss is {loss}.", _NOT_FINITE_HINT, **metrics)
        if loss == 0.0 and self._stops_at_zero:
            self.stop(
                state.global_step, "The loss is exactly 0.0, so nothing is left to learn.", _ZERO_LOSS_HINT, **metrics
            )
        if norm is not None and not math.isfinite(norm) and not self._is_skipped(args.fp16):
            self.stop(state.global_step, f"The gradient norm is {norm}.", _NOT_FINITE_HINT, **metrics)
        if not math.isfinite(logs.get("dev_nll", 0.0)):
            reason = "The model returned NaN or inf for dev rows after this step."
            self.stop(state.global_step, reason, _NOT_FINITE_HINT, **metrics)

    def _is_skipped(self, fp16: bool) -> bool:
        """Return True if fp16's loss scaler skips a step whose gradients overflow."""
        # The scaler starts with a large scale and halves it after each overflow, so some skipped steps are normal.
        return fp16 and (self._scale is None or self._scale >= _SMALLEST_SCALE)

    def stop(self, step: int, reason: str, hint: str | None, **metrics: float | None) -> NoReturn:
        """Write the step's description to `path` and raise the error that ends training.

        Raises:
            TrainingError: Always.
        """
        json_metrics = {name: _json_value(value) for name, value in metrics.items()}
        rows = [self._ids[index] for index in self._rows.tolist()]
        details = f"The rows of this step are listed in {self.path}."
        try:
            write_json(
                self.path, {"step": step, "what": reason, **json_metrics, "loss_scale": self._scale, "rows": rows}
            )
        except OSError as error:  # must not hide the reason for the stop
            is_full = isinstance(error, StorageError)
            details = str(error) if is_full else f"{self.path} could not be written: {error.strerror}."
        raise TrainingError(f"Training stopped at step {step}: {reason} {details}", hint=hint)


def _json_value(value: float | None) -> float | str | None:
    """Return NaN and infinity as text, since JSON has neither and they are what matters here."""
    return value if value is None or math.isfinite(value) else str(value)
