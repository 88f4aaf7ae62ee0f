"""Files and folders that no reader ever sees half of, and their digests."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.utils.storage import flush_to_disk, is_written, storage_errors


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside `path` as they wrote it; put back what they had set aside."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if is_written(leftover):
            continue
        if leftover.name.startswith(f".{path.name}.old.") and not os.path.lexists(path):
            leftover.rename(path)  # killed between the two renames of `atomic_path`
        else:
            remove(leftover)


@contextmanager
def scratch_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` whose file or folder is gone at the end; see `remove_leftovers`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove(scratch)  # in a container, a process that was killed may have had the same number
    try:
        with storage_errors(path):
            yield scratch
    finally:
        remove(scratch)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; on success it is renamed to `path`, on failure it is removed.

    Works for a file and for a folder; an older `path` is replaced only at the end, and never seen in part.

    Raises:
        StorageError: the disk is full.
    """
    with scratch_path(path) as partial:
        yield partial
        if partial.is_dir():
            _apply_umask(partial)
        older = _move_aside(path) if partial.is_dir() and path.exists() else None
        partial.replace(path)
        if older:
            remove(older)


def _apply_umask(folder: Path) -> None:
    """Safetensors writes for the user alone, whatever the umask says."""
    os.umask(mask := os.umask(0o077))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def discard(path: Path) -> None:
    """Remove what must never be seen in part."""
    remove(_move_aside(path))


def _move_aside(path: Path) -> Path:
    old_path = path.with_name(f".{path.name}.old.{os.getpid()}.partial")  # a leftover by name, see `remove_leftovers`
    remove(old_path)
    return path.rename(old_path)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
        flush_to_disk(partial)


def write_json(path: Path, value: Any) -> None:
    """Write indented UTF-8 JSON atomically; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def file_fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the SHA-256 of each file's contents, as hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
