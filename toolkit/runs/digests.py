"""SHA-256 digests of the files that a run depends on; those of large files are cached."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.utils.atomic_io import file_sha256, write_json

_CACHE_NAME = ".digests.json"
_MIN_CACHED_BYTES = 16 << 20
"""Smaller files, such as most adapters, are hashed every time. That takes about 10 ms."""

_known_digests: dict[tuple[str, tuple[int, ...]], str] = {}
"""The digests that this process has computed, by path and state."""


def file_digest(path: Path, cache_folder: Path | None = None) -> str:
    """Return the hexadecimal SHA-256 digest of a file.

    The digest of a large file is taken from a cache while the file's size, times and inode are unchanged, because
    reading 2.5 GB of weights takes seconds.

    Args:
        path: The file.
        cache_folder: The run folder that has the cache, `.digests.json`. Without write permission nothing is cached.
    """
    path = path.resolve()  # the Hub's cache has links, whose own times do not change with the file
    state = _file_state(path)
    if state[0] < _MIN_CACHED_BYTES:
        return file_sha256(path)
    key = (str(path), state)
    if key not in _known_digests:
        cache = _read_cache(cache_folder)
        entry = cache.get(str(path))
        if isinstance(entry, list) and entry[:-1] == list(state):
            _known_digests[key] = str(entry[-1])
        else:
            _known_digests[key] = file_sha256(path)
            _write_cache(cache_folder, cache | {str(path): [*state, _known_digests[key]]})
    return _known_digests[key]


def _file_state(path: Path) -> tuple[int, ...]:
    # The change time cannot be set by a program, unlike the modification time, which copies and archives restore.
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read_cache(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    path = folder / _CACHE_NAME
    with suppress(OSError, ValueError, RecursionError):
        cache = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return cache if isinstance(cache, dict) else {}
    return {}


def _write_cache(folder: Path | None, cache: dict[str, Any]) -> None:
    if folder is not None and folder.is_dir() and os.access(folder, os.W_OK):
        with suppress(OSError):  # a full disk costs only time
            write_json(folder / _CACHE_NAME, cache)


def digest_files(folder: Path, names: Iterable[str], cache_folder: Path | None = None) -> dict[str, str]:
    """Return the digests of files in a folder, by name."""
    return {name: file_digest(folder / name, cache_folder) for name in sorted(names)}


def combine(digests: Mapping[str, str]) -> str:
    """Return one hexadecimal SHA-256 digest for several files with their names."""
    return hashlib.sha256("".join(f"{name}\0{digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 digest of a JSON value, which does not depend on white space or the order of keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()
