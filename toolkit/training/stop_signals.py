"""SIGTERM and Ctrl-C during training: the running step is finished and saved, then the run ends."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from toolkit.models.backend import TrainerCallback, any_process
from toolkit.runs.run_folder import IS_MAIN_PROCESS

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While it is entered, the first SIGTERM or Ctrl-C is only noted; the same one again ends the process as usual.

    Args:
        resume_hint: what resumes the run, for the message of the second signal.
    """

    def __init__(self, resume_hint: str) -> None:
        self._resume_hint = resume_hint
        self._received: set[int] = set()
        self._previous_handlers: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether the process was asked to stop."""
        return bool(self._received)

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # no other may choose what a signal does
            self._previous_handlers = {number: signal.signal(number, self._handle_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        # A launcher passes a Ctrl-C on as a SIGTERM: two different ones are one wish.
        if number in self._received:
            raise KeyboardInterrupt(f"at once; go on from the last checkpoint with: {self._resume_hint}")
        if not self._received and IS_MAIN_PROCESS:
            logger.warning("\nstopping    after this step and its checkpoint; once more stops at once")
        self._received.add(number)


class StopOnSignal(TrainerCallback):
    """Ends training behind the running step, with a checkpoint, when any process was asked to stop."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask all processes, which step together or not at all."""
        if any_process(self._signals.received):
            control.should_save = control.should_training_stop = True
