"""Progress bars, shown by commands and off by default in the API."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as text_bar

ProgressCallback = Callable[[str, int, int | None], None]
"""A function that gets the name of the work (`training`, `scoring`, ...), the units done and their total, if known."""
Progress = bool | ProgressCallback

_current: ContextVar[Progress] = ContextVar("progress", default=False)


@contextmanager
def show_progress(progress: Progress) -> Iterator[None]:
    """Choose how code inside the `with` block reports its progress.

    Args:
        progress: True for tqdm bars on standard error, False for no reports, or a callback.
    """
    # A context variable instead of an argument, because bars are deep inside scorers, writers and trainers, and every
    # function between here and there would have to pass the choice on.
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)


def progress_bar(*args: Any, disable: bool = False, **options: Any) -> Any:
    """Return a tqdm bar that follows the choice of `show_progress`; the arguments are those of tqdm."""
    progress = _current.get()
    if callable(progress) and not disable:
        return _CallbackBar(*args, callback=progress, **options)
    return tqdm(*args, disable=disable or progress is False, **options)


class _CallbackBar(text_bar):
    """A bar that calls a function instead of drawing."""

    def __init__(self, *args: Any, callback: ProgressCallback, **options: Any) -> None:
        self._callback = callback
        super().__init__(*args, gui=True, **options)  # tqdm does not print bars that are part of a GUI

    def display(self, *_: Any, **__: Any) -> None:
        """Call the function instead of drawing."""
        self._callback(self.desc.removesuffix(": ") if self.desc else "", int(self.n), self.total)

    def close(self) -> None:
        """Report the final count."""
        if not self.disable:
            self.display()
        super().close()
