"""Checkpoints on the disk: each is complete or not used, and older ones make room.

A checkpoint is written beside its name, flushed, and renamed; a kill leaves no part of one under its name. What
happens to it later - a file cut, lost or changed - shows in its manifest, which has every file's size and digest.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import RunError, first_line
from toolkit.utils.atomic_io import atomic_path, discard, file_sha256, remove
from toolkit.utils.storage import flush_to_disk

_MANIFEST = "manifest.json"
_DAMAGED_PREFIX = "damaged-"


@dataclass(frozen=True)
class Checkpoints:
    """What a search found: the newest complete checkpoint, and newer ones that are damaged, each with its damage."""

    newest: Path | None
    damaged: tuple[tuple[Path, str], ...] = ()

    @property
    def step(self) -> int:
        """The step that training goes on behind; 0 without a checkpoint."""
        return checkpoint_step(self.newest) if self.newest else 0


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return checkpoints / f"checkpoint-{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def new_checkpoint(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; at the end it is sealed, flushed and renamed to `folder`.

    Raises:
        StorageError: the disk is full; earlier checkpoints stay.
    """
    with atomic_path(folder) as partial:
        partial.mkdir()
        yield partial
        files = {path.name: _manifest_entry(path) for path in sorted(partial.iterdir())}
        (partial / _MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")
        flush_to_disk(partial)
    flush_to_disk(folder.parent)


def find_checkpoints(checkpoints: Path) -> Checkpoints:
    """Look from the newest checkpoint back for a complete one; every file of it is read.

    Raises:
        RunError: a file may not or cannot be read at all, which need not be the file's fault.
    """
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(_sorted_checkpoints(checkpoints)):
        try:
            damage = find_damage(folder)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be read: {first_line(error)}.", hint="Make its disk and its files readable again."
            ) from error
        if not damage:
            return Checkpoints(folder, tuple(damaged))
        damaged.append((folder, damage))
    return Checkpoints(None, tuple(damaged))


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if nothing is.

    Raises:
        OSError: a file is there and cannot be read.
    """
    try:
        files = json.loads((folder / _MANIFEST).read_bytes())
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (FileNotFoundError, IsADirectoryError):
        return f"it has no {_MANIFEST}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"its {_MANIFEST} cannot be read"
    if not expected:
        return f"its {_MANIFEST} names no file"
    for name, (size, digest) in expected.items():
        path = folder / name
        try:
            actual_size = path.stat().st_size
        except FileNotFoundError:
            return f"{name} is missing"
        if actual_size != size:
            return f"{name} has {actual_size:,} of {size:,} bytes"
        if file_sha256(path) != digest:
            return f"{name} was changed"
    return None


def clean_up(checkpoints: Path, existing: Checkpoints) -> None:
    """Set damaged checkpoints aside and remove what killed processes left, in a folder that this process holds."""
    for folder, _ in existing.damaged:
        damaged_path = folder.with_name(_DAMAGED_PREFIX + folder.name)
        remove(damaged_path)
        folder.rename(damaged_path)
    for leftover in checkpoints.glob(".checkpoint-*.partial"):
        remove(leftover)


def keep_newest(checkpoints: Path, limit: int) -> None:
    """Remove the oldest checkpoints beyond `limit`, and damaged ones: there are newer ones now."""
    for folder in checkpoints.glob(f"{_DAMAGED_PREFIX}checkpoint-*"):
        discard(folder)
    for folder in _sorted_checkpoints(checkpoints)[:-limit]:
        discard(folder)


def _sorted_checkpoints(checkpoints: Path) -> list[Path]:
    folders = [path for path in checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted((path for path in folders if path.is_dir()), key=checkpoint_step)


def _manifest_entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
