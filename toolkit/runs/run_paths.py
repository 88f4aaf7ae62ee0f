"""Where a new run may stand: refused before anything is loaded, not when hours of training want to be written."""

import os
from collections.abc import Iterable
from pathlib import Path

from toolkit.errors import RunError

_OUTPUT_DIR_HINT = "Give another folder with output_dir."


def check_run_path(path: Path) -> None:
    """Refuse a path at which no run folder can be made, or where it would do harm.

    Raises:
        RunError: its name has control characters, it is a link, stands inside another run or below a file, or cannot
            be written.
    """
    resolved = Path(os.path.realpath(path))
    name = resolved.name
    if not name.isprintable():  # it becomes part of file names, of a Modelfile and of a report
        raise RunError(f"The run folder's name {name!r} has characters that cannot be printed.", hint=_OUTPUT_DIR_HINT)
    if path.is_symlink():  # a run is made, and replaced, as a whole
        raise RunError(
            f"{path} is a symbolic link to {path.readlink()}.", hint="Give the folder itself with output_dir."
        )
    if resolved.exists() and not path.exists():  # a missing folder and `..`: it would be made, and another one taken
        raise RunError(f"{path} leads through a folder that does not exist to {resolved}.", hint=_OUTPUT_DIR_HINT)
    parents = resolved.parents
    if enclosing_runs := [
        folder for folder in parents if (folder / "run.json").is_file() and (folder / "recipe.yaml").is_file()
    ]:
        raise RunError(
            f"{path} would stand inside the run {enclosing_runs[0]}, and vanish with it.", hint=_OUTPUT_DIR_HINT
        )
    if not (nearest := nearest_existing(resolved)).is_dir():
        raise RunError(f"{path} cannot be a run folder: {nearest} is a file.", hint=_OUTPUT_DIR_HINT)
    check_writable(resolved, hint=_OUTPUT_DIR_HINT)


def check_writable(path: Path, *, hint: str = "Give yourself the right to write there, or copy the run.") -> None:
    """Refuse what is to be written into a folder that this user may not write.

    Raises:
        RunError: naming the folder.
    """
    nearest = nearest_existing(path)
    if not os.access(nearest, os.W_OK | os.X_OK if nearest.is_dir() else os.W_OK):
        raise RunError(f"{path} cannot be written: this user may not write {nearest}.", hint=hint)


def nearest_existing(path: Path) -> Path:
    """Where a path leads, or the first folder above that exists."""
    resolved = Path(os.path.realpath(path))
    return next(candidate for candidate in (resolved, *resolved.parents) if os.path.lexists(candidate))


def check_no_links(paths: Iterable[Path]) -> None:
    """Refuse folders of a run that are links: what is written and removed there would be another folder's.

    Raises:
        RunError: naming the first link.
    """
    for path in paths:
        if path.is_symlink():
            raise RunError(
                f"{path} is a symbolic link to {path.readlink()}.", hint="Put the folder itself in its place."
            )
