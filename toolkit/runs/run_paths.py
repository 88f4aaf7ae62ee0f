"""Checks of the paths that a run is written to, made before hours of training instead of after."""

import os
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from toolkit.errors import RunError
from toolkit.utils.atomic_io import longest_scratch_name
from toolkit.utils.storage import disk_full_reason, storage_errors

_LONGEST_GGUF_NAME = "{}-quantizing.gguf"  # the export's intermediate file
_RUN_FILES = frozenset(
    ("", "adapter", "checkpoints", "compare", "eval", "gguf", "merged", "recipe.yaml", "run.json", "train_log.jsonl")
)
"""The folders and files of a run that other results depend on; "" is the run folder itself."""
_OUTPUT_DIR_HINT = "Choose another folder with output_dir."
_SHOWN_CHARACTERS = 60


def check_run_path(path: Path) -> None:
    """Check that a run folder can be created safely at a path.

    Raises:
        RunError: If the name is not printable or too long, or the path is a link, leads through a missing folder, is
            inside another run, is below a file, or is not writable.
    """
    # Not Path.resolve, which raises if symbolic links form a loop.
    resolved = Path(os.path.realpath(path))
    name = resolved.name
    check_name_printable(resolved, hint=_OUTPUT_DIR_HINT)
    gguf = resolved / "gguf" / _LONGEST_GGUF_NAME.format(name)
    check_name_length(gguf, f"The run folder's name {_shown(name)}", hint=_OUTPUT_DIR_HINT)
    if path.is_symlink():  # overwriting would delete the files of the target
        raise RunError(
            f"{path} is a symbolic link to {path.readlink()}.", hint="Give the folder itself with output_dir."
        )
    # In "missing/../other", mkdir would create "missing", after which the path leads to an existing folder.
    if resolved.exists() and not path.exists():
        raise RunError(f"{path} leads to {resolved} through a folder that does not exist.", hint=_OUTPUT_DIR_HINT)
    parents = resolved.parents
    if enclosing_runs := [
        folder for folder in parents if (folder / "run.json").is_file() and (folder / "recipe.yaml").is_file()
    ]:
        raise RunError(
            f"{path} is inside the run {enclosing_runs[0]} and would be deleted with it.", hint=_OUTPUT_DIR_HINT
        )
    if not (nearest := nearest_existing(resolved)).is_dir():
        raise RunError(f"{path} cannot be a run folder: {nearest} is a file.", hint=_OUTPUT_DIR_HINT)
    check_writable(resolved, hint=_OUTPUT_DIR_HINT)
    if nearest != resolved:
        check_can_create(resolved, hint=_OUTPUT_DIR_HINT)


def check_name_printable(path: Path, *, hint: str) -> None:
    """Check the name of a run folder, which becomes part of file names, a Modelfile and a report.

    Raises:
        RunError: If it contains a line break or another unprintable character.
    """
    if not (name := Path(os.path.realpath(path)).name).isprintable():
        raise RunError(f"The run folder's name {name!r} contains unprintable characters.", hint=hint)


def check_not_run_file(target: Path, *, hint: str, allowed: Collection[str] = ()) -> None:
    """Check that a file or folder to write is not one of a run's own, which it would destroy.

    Args:
        target: The path to write.
        hint: What to do instead.
        allowed: Names in a run folder below which the caller can write.

    Raises:
        RunError: If it is.
    """
    resolved = Path(os.path.realpath(target))
    for folder in (resolved, *resolved.parents):
        name = next(iter(resolved.relative_to(folder).parts), "")
        if name in _RUN_FILES - set(allowed) and (folder / "run.json").is_file():
            raise RunError(f"{target} is in {folder / name}, which belongs to a run.", hint=hint)


def check_name_length(path: Path, subject: str, *, hint: str) -> None:
    """Check that the file system accepts a file's name and path, and those of its scratch files.

    Args:
        path: The file or folder that will be written.
        subject: The name that the user gave, as the beginning of the error message.
        hint: What to do instead.

    Raises:
        RunError: If they are too long.
    """
    scratch = Path(os.path.realpath(path)).with_name(longest_scratch_name(path.name))
    for text, limit in ((scratch.name, _limit(path, "PC_NAME_MAX", 255)), (scratch, _limit(path, "PC_PATH_MAX", 4096))):
        if (excess := len(os.fsencode(text)) - limit) > 0:
            raise RunError(
                f"{subject} is too long by {excess} bytes: files named after it could not be written.", hint=hint
            )


def _limit(path: Path, name: str, default: int) -> int:
    try:
        limit = os.pathconf(nearest_existing(path), name)
    except (OSError, ValueError):  # a file system that does not report its limits
        return default
    return limit if limit > 0 else default


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}...")


def check_can_create(path: Path, *, hint: str) -> None:
    """Check by trying that a file or folder can be created. Permissions are not enough, for example below /proc.

    Raises:
        RunError: If the file system refuses it.
        StorageError: If the disk is full.
    """
    nearest = nearest_existing(path)
    with storage_errors(path):
        try:
            Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=nearest)).rmdir()
        except OSError as error:
            if disk_full_reason(error):
                raise
            raise RunError(
                f"{path} cannot be written: {nearest} does not accept new files ({error.strerror}).", hint=hint
            ) from error


def check_writable(path: Path, *, hint: str = "Change the permissions, or copy the run elsewhere.") -> None:
    """Check that the user has permission to write a file or folder.

    Raises:
        RunError: If the path, or the nearest folder above it that exists, is not writable.
    """
    nearest = nearest_existing(path)
    if not os.access(nearest, os.W_OK | os.X_OK if nearest.is_dir() else os.W_OK):
        raise RunError(f"Cannot write to {path}: permission denied for {nearest}.", hint=hint)


def nearest_existing(path: Path) -> Path:
    """Return the path after following links, or the nearest folder above it that exists."""
    resolved = Path(os.path.realpath(path))
    return next(candidate for candidate in (resolved, *resolved.parents) if os.path.lexists(candidate))


def check_no_links(paths: Iterable[Path]) -> None:
    """Check that folders of a run are not links, because files would be written to and deleted from another folder.

    Raises:
        RunError: If one of the paths is a link.
    """
    for path in paths:
        if path.is_symlink():
            raise RunError(
                f"{path} is a symbolic link to {path.readlink()}.", hint="Replace the link with the folder itself."
            )
