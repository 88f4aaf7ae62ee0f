"""Disks: full-disk errors, flushing, and folder locks."""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toolkit.errors import RunError, StorageError, ToolkitError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file exceeds the size limit (see `ulimit -f`)",
}
_LOCK_TIMEOUT_S = 5.0
_LOCK_POLL_S = 0.05
_SCRATCH = re.compile(r"\.([^/]+?)\.\d+\.partial")
# safetensors and tokenizers are written in Rust and raise exceptions with this message. numpy raises an OSError without
# an error number.
_RUST_ERROR = re.compile(r"os error (\d+)")
_NUMPY_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def disk_full_reason(error: BaseException) -> str | None:
    """Return the reason why there was no space for a file, or None for any other error."""
    error_number = error.errno if isinstance(error, OSError) else None
    if error_number is None and (match := _RUST_ERROR.search(str(error))):
        error_number = int(match[1])
    if error_number is None and isinstance(error, OSError) and _NUMPY_SHORT_WRITE.search(str(error)):
        error_number = errno.ENOSPC
    return _REASONS.get(error_number or 0)


def final_name(path: str) -> str:
    """Replace the name of a scratch file (see `atomic_io.scratch_path`) by the final name of that file."""
    return _SCRATCH.sub(r"\1", path)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn any package's full-disk error while it writes `path` into an error with one message.

    Raises:
        StorageError: If there is no space for the file.
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
            hint="Free some space (`df -h` shows how much is left), then run the same command again.",
        ) from error


def is_being_written(scratch: Path) -> bool:
    """Return whether the process whose id is in a scratch path's name (see `atomic_io`) is still writing it."""
    import psutil  # imported here because it takes 50 ms, which would delay --help

    pid = scratch.name.split(".")[-2]
    try:
        # Process ids are reused, in a container at almost every start. A process that started after the last change of
        # the path cannot be the one that created it.
        return not pid.isdecimal() or psutil.Process(int(pid)).create_time() <= scratch.lstat().st_ctime
    except (psutil.NoSuchProcess, FileNotFoundError, OverflowError):
        return False


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, would survive a power failure."""
    # Folders need an fsync, too: it makes the names of their files durable.
    for entry in [*(path.rglob("*") if path.is_dir() else ()), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False, create: bool = False) -> Iterator[None]:
    """Lock a folder for this process: shared while files are read, exclusive while they are replaced.

    Reading and writing results takes moments, so the lock is waited for. Training and export hold one until they end.

    Args:
        folder: The folder.
        shared: Whether other processes can hold a shared lock at the same time.
        create: Whether to create the folder if it does not exist.

    Raises:
        RunError: If another process keeps it locked, or the folder does not exist.
    """
    # The operating system releases the lock when the process ends, even if it is killed, so no stale lock can remain.
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise RunError(f"{folder} does not exist any more.", hint="Restore it from a copy, or give another folder.")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems do not support locks
            _lock(descriptor, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, mode: int) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise RunError(
                    f"Another process is using {folder}: it is training, exporting, or reading or writing files.",
                    hint="Wait until it ends, stop it, or use another folder.",
                ) from error
        time.sleep(_LOCK_POLL_S)
