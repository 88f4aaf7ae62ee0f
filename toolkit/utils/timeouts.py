"""A limit on the time of what others wrote, such as a chat template whose loops do not end."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def run_with_timeout(seconds: float, compute: Callable[[], T]) -> T:
    """What `compute` returns or raises, if it takes no longer than `seconds`.

    It runs in a thread, which cannot be ended from outside: one that takes too long goes on until the process ends.

    Raises:
        TimeoutError: it takes longer.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(compute())
        except Exception as error:  # raised again where it is waited for
            errors.append(error)

    thread = Thread(target=run, daemon=True)  # a daemon does not keep the process from ending
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")
    return results[0]
