"""Handling of SIGTERM and Ctrl-C during training: the current step is finished and saved before the run ends."""

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from toolkit.models.backend import TrainerCallback, any_process
from toolkit.runs.run_folder import IS_MAIN_PROCESS

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAUNCHER_SECONDS = 0.5


class StopSignals:
    """A context in which SIGTERM and Ctrl-C only request a stop; a second signal interrupts immediately.

    An exception in the middle of a step would lose the work since the last checkpoint, so the handler sets a flag that
    `StopOnSignal` reads between steps.

    Args:
        resume_hint: The command or call that resumes the run, for the message after a second signal.
    """

    def __init__(self, resume_hint: str) -> None:
        self._resume_hint = resume_hint
        self._received_signals: set[int] = set()
        self._first_time = 0.0
        self._previous_handlers: dict[int, Any] = {}

    @property
    def is_stop_requested(self) -> bool:
        """True after the first signal."""
        return bool(self._received_signals)

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._previous_handlers = {number: signal.signal(number, self._handle_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        # Under a launcher, one Ctrl-C can arrive twice: as SIGINT from the terminal and a moment later as SIGTERM from
        # the launcher. Only the same signal again, or any signal after that moment, is a second request.
        is_second = self._received_signals and time.monotonic() - self._first_time >= _LAUNCHER_SECONDS
        if number in self._received_signals or is_second:
            raise KeyboardInterrupt(
                f"Training stopped immediately. Resume from the latest checkpoint with: {self._resume_hint}"
            )
        if not self._received_signals:
            self._first_time = time.monotonic()
            if IS_MAIN_PROCESS:
                logger.warning(
                    "\nstopping    after this step and its checkpoint. Press Ctrl-C again to stop immediately."
                )
        self._received_signals.add(number)


class StopOnSignal(TrainerCallback):
    """A callback that saves a checkpoint and ends training after the current step if a stop was requested."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop all processes at the same step, even if only one got the signal."""
        # A process that stopped before the others would leave them waiting in the next step's all-reduce.
        if any_process(self._signals.is_stop_requested):
            control.should_save = control.should_training_stop = True
