"""Checks of API arguments that argparse performs for the command line."""

from pathlib import Path
from typing import Any

from toolkit.errors import RunError


def to_path(value: Any, name: str) -> Path:
    """Convert an argument to a path.

    Args:
        value: A string or a path.
        name: The name of the argument, for the error message.

    Raises:
        RunError: If the value is neither a string nor a path.
    """
    # Path() itself raises a TypeError that does not name the argument.
    if not isinstance(value, (str, Path)):
        raise RunError(f"{name} is {value!r:.60}, which is not a path.", hint="Pass a string or a pathlib.Path.")
    return Path(value)
