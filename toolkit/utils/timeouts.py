"""A time limit for untrusted computations, such as a chat template with an endless loop."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def run_with_timeout(seconds: float, compute: Callable[[], T]) -> T:
    """Return or raise what `compute` does if it takes at most `seconds`.

    It runs in a thread. Python cannot stop a thread, so one that takes too long continues until the process ends.

    Raises:
        TimeoutError: If `compute` takes longer.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(compute())
        except Exception as error:  # raised in the calling thread below
            errors.append(error)

    thread = Thread(target=run, daemon=True)  # a daemon thread does not prevent the process from exiting
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")
    return results[0]
