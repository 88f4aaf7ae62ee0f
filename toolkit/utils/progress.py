"""Progress bars: shown by commands, silent in the API unless a caller asks for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as text_bar

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with the name of the work (`training`, `scoring` ...), the units done, and their total where it is known."""
Progress = bool | ProgressCallback

_setting: ContextVar[Progress] = ContextVar("progress", default=False)


@contextmanager
def show_progress(progress: Progress) -> Iterator[None]:
    """Choose how everything inside the `with` block reports its progress.

    A context variable rather than an argument: bars stand deep inside scorers, writers and trainers, and every
    function above them would have to pass the choice along.

    Args:
        progress: True for tqdm's bars on standard error, False for none, or a callback.
    """
    token = _setting.set(progress)
    try:
        yield
    finally:
        _setting.reset(token)


def progress_bar(*args: Any, disable: bool = False, **options: Any) -> Any:
    """Return a tqdm bar that heeds `show_progress`; the arguments are tqdm's own."""
    progress = _setting.get()
    if callable(progress) and not disable:
        return _ReportingBar(*args, callback=progress, **options)
    return tqdm(*args, disable=disable or progress is False, **options)


class _ReportingBar(text_bar):
    """A bar that draws nothing and calls back instead."""

    def __init__(self, *args: Any, callback: ProgressCallback, **options: Any) -> None:
        self._callback = callback
        super().__init__(*args, gui=True, **options)  # tqdm's own switch for bars that are not drawn as text

    def display(self, *_: Any, **__: Any) -> None:
        """Report instead of drawing."""
        self._callback(self.desc.removesuffix(": ") if self.desc else "", int(self.n), self.total)

    def close(self) -> None:
        """Report the final count."""
        if not self.disable:
            self.display()
        super().close()
