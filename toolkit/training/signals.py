"""SIGTERM and Ctrl-C during training: the running step is finished and saved, then the run ends."""

import shlex
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from toolkit.model.backend import TrainerCallback, any_process
from toolkit.run_folder import IS_MAIN_PROCESS

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While it is entered, the first SIGTERM or Ctrl-C is only noted; the same one again ends the process as usual."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._before: dict[int, Any] = {}

    @property
    def seen(self) -> bool:
        """Whether the process was asked to stop."""
        return bool(self._seen)

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # no other may choose what a signal does
            self._before = {one: signal.signal(one, self._note) for one in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A launcher passes a Ctrl-C on as a SIGTERM: two different ones are one wish.
        if number in self._seen:
            raise KeyboardInterrupt(f"at once; go on from the last checkpoint with: {resume_command()}")
        if not self._seen and IS_MAIN_PROCESS:
            print("\nstopping    after this step and its checkpoint; once more stops at once", file=sys.stderr)
        self._seen.add(number)


class StopWhenAsked(TrainerCallback):
    """Ends training behind the running step, with a checkpoint, when any process was asked to stop."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask all processes, which step together or not at all."""
        if any_process(self._signals.seen):
            control.should_save = control.should_training_stop = True


def resume_command() -> str:
    """The command that goes on with this run."""
    arguments = [argument for argument in sys.argv if argument not in ("--overwrite", "--resume")]
    return shlex.join(["python", *arguments, "--resume"])
