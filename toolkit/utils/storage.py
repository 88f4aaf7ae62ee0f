"""The disk: a full one in one sentence, whichever package was writing, and a folder kept by one process."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toolkit.errors import RunError, StorageError, ToolkitError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not become this large here (see `ulimit -f`)",
}
_SCRATCH = re.compile(r"\.([^/]+?)\.\d+\.partial")
_RUST_ERROR = re.compile(r"os error (\d+)")  # safetensors and tokenizers raise errors of their own
_NUMPY_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def disk_full_reason(error: BaseException) -> str | None:
    """Why there was no room for a file, in words; None where the error says something else."""
    error_number = error.errno if isinstance(error, OSError) else None
    if error_number is None and (match := _RUST_ERROR.search(str(error))):
        error_number = int(match[1])
    if error_number is None and isinstance(error, OSError) and _NUMPY_SHORT_WRITE.search(str(error)):
        error_number = errno.ENOSPC
    return _REASONS.get(error_number or 0)


def final_name(path: str) -> str:
    """Of what is written beside its name (see `atomic_io.scratch_path`), the name."""
    return _SCRATCH.sub(r"\1", path)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what packages raise on a full disk while they write `path` into one sentence.

    Raises:
        StorageError: there was no room for the file.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        if (reason := disk_full_reason(error)) is None:
            raise
        raise StorageError(
            f"{final_name(str(path))} could not be written: {reason}.",
            hint="Make room there (`df -h` tells how much there is), then give the same command again.",
        ) from error


def is_written(scratch: Path) -> bool:
    """Whether the process that a hidden path is named after (see `atomic_io.scratch_path`) still writes it.

    In a container each start has the same few numbers: a process that began after the last change is another one.
    """
    import psutil  # here, since it takes a twentieth of a second that --help need not wait

    number = scratch.name.split(".")[-2]
    try:
        return not number.isdecimal() or psutil.Process(int(number)).create_time() <= scratch.lstat().st_ctime
    except (psutil.NoSuchProcess, FileNotFoundError, OverflowError):
        return False


def flush_to_disk(path: Path) -> None:
    """Return when a file, or a folder with all that is in it, would survive a loss of power."""
    for entry in [*(path.rglob("*") if path.is_dir() else ()), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create a folder and keep it for this process; the system lets it go when the process ends, however it ends.

    Raises:
        RunError: another process keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system has locks
            _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"Another process is training in {folder}.",
            hint="Wait for it or stop it, or give another folder with output_dir.",
        ) from error
