"""Arguments of the API, checked where a command line would have refused them."""

from pathlib import Path
from typing import Any

from toolkit.errors import RunError


def to_path(value: Any, name: str) -> Path:
    """Return a path.

    Args:
        value: a string or a path.
        name: of the argument, for the message.

    Raises:
        RunError: it is neither.
    """
    if not isinstance(value, (str, Path)):
        raise RunError(f"{name} is {value!r:.60}, which is not a path.", hint="Give a string or a pathlib.Path.")
    return Path(value)
