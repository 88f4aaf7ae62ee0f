"""Checks of API arguments that argparse performs for the command line."""

from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_folder import RunFolder


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


def check_output_dir(run: RunFolder, *, overwrite: bool) -> None:
    """Check that a run folder that is made without training is free, or may be overwritten.

    Raises:
        RunError: If it is taken. Unlike that of a training, the hint does not propose to resume.
    """
    try:
        run.check_not_taken(overwrite=overwrite)
    except RunError as error:
        if not overwrite:
            error.hint = "Choose another folder with output_dir."
            if run.run_json.is_file():
                error.hint = "Add overwrite=True to replace it, or choose another folder with output_dir."
        raise
