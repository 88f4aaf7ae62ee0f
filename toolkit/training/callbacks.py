"""Callbacks of the trainer: the training log, the progress bar and the row order of each epoch."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.batching.sampling import RowOrder
from toolkit.models.backend import TrainerCallback
from toolkit.runs.run_folder import finite_or_none
from toolkit.utils.atomic_io import write_text
from toolkit.utils.progress import progress_bar
from toolkit.utils.storage import storage_errors

DEV_METRICS = ("dev_accuracy", "dev_macro_f1", "dev_nll")
"""The metrics of the dev rows in the log of a step, see `training.validation`."""


class TrainLog(TrainerCallback):
    """A writer of train_log.jsonl, with one line per optimizer step.

    The trainer saves its own log history in each checkpoint, and a resumed run rewrites the file from it. This drops
    the steps after the checkpoint, which will be repeated, and repairs a truncated line or a missing file.

    Args:
        path: The log file; None in a process that does not write one.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._previous_seconds = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """The training time in seconds across all sessions of the run, excluding steps lost to a kill."""
        return round(self._previous_seconds + time.monotonic() - self._start, 3)

    def begin(self, history: Sequence[dict[str, Any]]) -> None:
        """Start the log with the steps in a trainer's `log_history`."""
        steps = [entry for entry in history if "loss" in entry]
        self._previous_seconds, self._start = steps[-1].get("seconds", 0.0) if steps else 0.0, time.monotonic()
        if self.path:
            write_text(self.path, "".join(map(_log_line, steps)))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the log with the steps of the checkpoint, if there is one."""
        self.begin(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write a line for a step. The summary at the end of training has no `loss` and is skipped."""
        if self.path is None or logs is None or "loss" not in logs:
            return
        # The trainer logs before it saves, so the time of this step is in its checkpoint, too.
        state.log_history[-1]["seconds"] = self.seconds
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as log:
            log.write(_log_line(state.log_history[-1]))


def _log_line(entry: dict[str, Any]) -> str:
    record = {
        "step": entry["step"],
        "epoch": round(float(entry.get("epoch") or 0), 4),
        "loss": finite_or_none(entry["loss"]),
        "learning_rate": entry.get("learning_rate"),
        "grad_norm": finite_or_none(entry.get("grad_norm")),
        "tokens": int(entry.get("num_tokens", 0)),
        "seconds": entry.get("seconds"),
        **{name: finite_or_none(entry[name]) for name in (*DEV_METRICS, "dev_seconds") if name in entry},
    }
    return json.dumps(record) + "\n"


class Progress(TrainerCallback):
    """A progress bar of optimizer steps that shows the latest loss and the result of the latest validation."""

    def __init__(self) -> None:
        self._bar: Any | None = None
        self._postfix: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar, at the checkpoint's step if the run is resumed."""
        if state.is_world_process_zero:
            self._bar = progress_bar(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the step's loss, and after a validation nll and accuracy of the dev rows."""
        if self._bar is not None and logs and "loss" in logs:
            shown = ("loss", "dev_nll", "dev_accuracy")
            self._postfix |= {name: f"{logs[name]:.4f}" for name in shown if name in logs}
            self._bar.set_postfix(self._postfix, refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar by one step."""
        if self._bar is not None:
            self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class EpochOrder(TrainerCallback):
    """A callback that sets the epoch of the row order.

    Transformers and accelerate call `set_epoch`, too. But when several processes resume in the middle of an epoch, the
    sampler is inside one more wrapper, which skips batches, and their call does not reach it.

    Args:
        order: The sampler of the training rows.
    """

    def __init__(self, order: RowOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the epoch before its rows are drawn."""
        # In a run that resumes in the middle of an epoch, state.epoch is a fraction such as 1.33.
        self._order.set_epoch(int(state.epoch or 0))
