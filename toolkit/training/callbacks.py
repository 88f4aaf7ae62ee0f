"""What happens beside the optimiser's steps: the log, the progress bar, and the order of an epoch's rows."""

import json
import time
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from toolkit.batching.sampling import RowOrder
from toolkit.model.backend import TrainerCallback
from toolkit.run_folder import finite


class TrainLog(TrainerCallback):
    """Appends one line per optimiser step to train_log.jsonl; a resumed run first drops the steps it will redo.

    Args:
        path: the log.
        from_step: the step that training starts behind.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        kept = []
        if from_step and path.is_file():
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= from_step
            ]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._earlier = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._start = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write what the trainer logged for a step; its closing summary is no step."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        record = {
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            "loss": finite(logs["loss"]),
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": finite(logs.get("grad_norm")),
            "tokens": int(logs.get("num_tokens", 0)),
            "seconds": round(self._earlier + time.monotonic() - self._start, 3),
        }
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")


class Progress(TrainerCallback):
    """A progress bar over the optimiser's steps with the latest loss."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar where a resumed run stands."""
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

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
