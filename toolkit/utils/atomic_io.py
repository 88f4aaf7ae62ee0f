"""Atomic writing of files and folders, and digests of files."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.utils.storage import flush_to_disk, is_being_written, storage_errors

_LARGEST_PROCESS_ID = 2**22  # on 64-bit Linux


def remove_leftovers(path: Path) -> None:
    """Remove scratch files next to `path` that killed processes left behind, or restore an older version from them."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if is_being_written(leftover):
            continue
        if leftover.name.startswith(f".{path.name}.old.") and not os.path.lexists(path):
            leftover.rename(path)  # the process was killed between the two renames of `atomic_path`
        else:
            remove(leftover)


def longest_scratch_name(name: str) -> str:
    """Return the longest name that a scratch path next to a file or folder of this name can have."""
    return f".{name}.old.{_LARGEST_PROCESS_ID}.partial"


@contextmanager
def scratch_path(path: Path) -> Iterator[Path]:
    """Yield a hidden scratch path next to `path`, which is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove(scratch)  # in a container, a killed process can have had the same process id
    try:
        with storage_errors(path):
            yield scratch
    finally:
        remove(scratch)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a scratch path that is renamed to `path` on success and removed on failure.

    This works for files and folders. Readers see either the older version of `path` or the complete new one.

    Raises:
        StorageError: If the disk is full.
    """
    with scratch_path(path) as partial:
        yield partial
        if partial.is_dir():
            _apply_umask(partial)
        # Renaming a file replaces an existing one, but renaming a folder onto one that is not empty fails, so the older
        # folder is renamed first. If the process is killed in between, `remove_leftovers` restores it.
        older = _move_aside(path) if partial.is_dir() and path.exists() else None
        partial.replace(path)
        if older:
            remove(older)


def _apply_umask(folder: Path) -> None:
    """Give files of safetensors, which are always created with mode 0600, the permissions of other new files."""
    # The umask can only be read by setting it.
    os.umask(mask := os.umask(0o077))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def discard(path: Path) -> None:
    """Remove a file or folder atomically, so that no reader sees a part of it."""
    remove(_move_aside(path))


def _move_aside(path: Path) -> Path:
    old_path = path.with_name(f".{path.name}.old.{os.getpid()}.partial")  # matches `remove_leftovers`
    remove(old_path)
    return path.rename(old_path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically and flush it to disk."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
        flush_to_disk(partial)


def write_json(path: Path, value: Any) -> None:
    """Write indented UTF-8 JSON atomically.

    Raises:
        ValueError: If a number is NaN or infinity, which JSON cannot represent.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def file_fingerprint(paths: Sequence[Path]) -> str:
    """Return the hexadecimal SHA-256 digest of the SHA-256 digests of several files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
