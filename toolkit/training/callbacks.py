"""What happens beside the optimiser's steps: the log, the progress bar, and the order of an epoch's rows."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.batching.sampling import RowOrder
from toolkit.models.backend import TrainerCallback
from toolkit.runs.run_folder import finite
from toolkit.utils.atomic_io import write_text
from toolkit.utils.progress import progress_bar
from toolkit.utils.storage import storage_errors


class TrainLog(TrainerCallback):
    """Writes train_log.jsonl, one line per optimiser step, beside the trainer's own history of logs.

    The history goes into checkpoints, and a resumed run writes the log anew from it: steps that will be redone, a torn
    line and a lost file leave no trace.

    Args:
        path: the log; None in a process that writes none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._previous_seconds = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time behind the latest state, over all starts; steps that were lost do not count."""
        return round(self._previous_seconds + time.monotonic() - self._start, 3)

    def begin(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the steps of a trainer's `log_history`."""
        steps = [entry for entry in history if "loss" in entry]
        self._previous_seconds, self._start = steps[-1].get("seconds", 0.0) if steps else 0.0, time.monotonic()
        if self.path:
            write_text(self.path, "".join(map(_log_line, steps)))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin behind the steps that a checkpoint holds."""
        self.begin(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write what the trainer logged for a step; its closing summary is no step."""
        if self.path is None or logs is None or "loss" not in logs:
            return
        state.log_history[-1]["seconds"] = self.seconds
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as log:
            log.write(_log_line(state.log_history[-1]))


def _log_line(entry: dict[str, Any]) -> str:
    record = {
        "step": entry["step"],
        "epoch": round(float(entry.get("epoch") or 0), 4),
        "loss": finite(entry["loss"]),
        "learning_rate": entry.get("learning_rate"),
        "grad_norm": finite(entry.get("grad_norm")),
        "tokens": int(entry.get("num_tokens", 0)),
        "seconds": entry.get("seconds"),
    }
    return json.dumps(record) + "\n"


class Progress(TrainerCallback):
    """A progress bar over the optimiser's steps with the latest loss."""

    def __init__(self) -> None:
        self._bar: Any | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar where a resumed run stands."""
        if state.is_world_process_zero:
            self._bar = progress_bar(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the loss of the step."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance by one."""
        if self._bar is not None:
            self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class EpochOrder(TrainerCallback):
    """Tells the row order its epoch; accelerate does not reach it when a resumed epoch is shared by processes.

    Args:
        order: the sampler of the training rows.
    """

    def __init__(self, order: RowOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before the epoch's rows are drawn; a resumed epoch has a fraction already."""
        self._order.set_epoch(int(state.epoch or 0))
