"""Checkpoint folders: written atomically, verified before use, and removed when newer ones exist.

A checkpoint is written under a temporary name, flushed to the disk and then renamed, so a killed process never leaves
an incomplete one under its final name. Later damage (a truncated, missing or changed file) is found by comparing the
files with manifest.json, which lists their sizes and SHA-256 digests.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import RunError, first_line
from toolkit.utils.atomic_io import atomic_path, discard, file_sha256, remove
from toolkit.utils.storage import flush_to_disk

_MANIFEST = "manifest.json"
_DAMAGED_PREFIX = "damaged-"

NeededStep = Callable[[Path], int | None]
"""A function that reads an intact checkpoint and returns the step of the checkpoint that it depends on, or None.

With `training.keep: best`, this is the best step so far, because its weights may become the adapter."""


def needs_no_other(_: Path) -> None:
    """Return None: no checkpoint needs another one."""


@dataclass(frozen=True)
class Checkpoints:
    """The latest intact checkpoint, and newer ones that are damaged, each with a description of its damage."""

    newest: Path | None
    damaged: tuple[tuple[Path, str], ...] = ()

    @property
    def step(self) -> int:
        """The step of the latest intact checkpoint; 0 if there is none."""
        return checkpoint_step(self.newest) if self.newest else 0


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return checkpoints / f"checkpoint-{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def new_checkpoint(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder for the files of a checkpoint, and rename it to `folder` when it is complete.

    Raises:
        StorageError: If the disk is full. Earlier checkpoints are kept.
    """
    with atomic_path(folder) as partial:
        partial.mkdir()
        yield partial
        files = {path.name: _manifest_entry(path) for path in sorted(partial.iterdir())}
        (partial / _MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")
        # The contents must be on the disk before the rename is. Otherwise a power loss could leave the final name with
        # empty files.
        flush_to_disk(partial)
    flush_to_disk(folder.parent)  # makes the rename itself durable


def find_checkpoints(checkpoints: Path, needed_step: NeededStep = needs_no_other) -> Checkpoints:
    """Find the latest intact checkpoint by reading every file of each candidate, from the newest backwards.

    A checkpoint is treated as damaged if the one that it needs is, so that a resumed run repeats that step.

    Raises:
        RunError: If a file cannot be read at all. That can be a fault of the system, so the checkpoint is not treated
            as damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(_sorted_checkpoints(checkpoints)):
        try:
            damage = describe_damage(folder) or _describe_needed_damage(folder, needed_step)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be read: {first_line(error)}.", hint="Check the disk and the file permissions."
            ) from error
        if not damage:
            return Checkpoints(folder, tuple(damaged))
        damaged.append((folder, damage))
    return Checkpoints(None, tuple(damaged))


def describe_damage(folder: Path) -> str | None:
    """Return a description of a checkpoint's damage, or None if it is intact.

    Raises:
        OSError: If a file exists but cannot be read.
    """
    try:
        files = json.loads((folder / _MANIFEST).read_bytes())
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (FileNotFoundError, IsADirectoryError):
        return f"{_MANIFEST} is missing"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{_MANIFEST} is not a valid manifest"
    if not expected:
        return f"{_MANIFEST} lists no files"
    for name, (size, digest) in expected.items():
        path = folder / name
        try:
            actual_size = path.stat().st_size
        except FileNotFoundError:
            return f"{name} is missing"
        if actual_size != size:
            return f"{name} has {actual_size:,} of {size:,} bytes"
        if file_sha256(path) != digest:
            return f"{name} has changed since it was written"
    return None


def _describe_needed_damage(folder: Path, needed_step: NeededStep) -> str | None:
    step = needed_step(folder)
    if step is None or step == checkpoint_step(folder):
        return None
    needed = checkpoint_folder(folder.parent, step)
    damage = describe_damage(needed)
    return damage and f"the checkpoint of its best step, {needed.name}, is damaged ({damage})"


def clean_up(checkpoints: Path, existing: Checkpoints) -> None:
    """Rename damaged checkpoints and remove the leftovers of killed processes; the run folder must be locked."""
    for folder, _ in existing.damaged:
        damaged_path = folder.with_name(_DAMAGED_PREFIX + folder.name)
        remove(damaged_path)
        folder.rename(damaged_path)
    for leftover in checkpoints.glob(".checkpoint-*.partial"):
        remove(leftover)


def keep_newest(checkpoints: Path, limit: int, needed_step: NeededStep = needs_no_other) -> None:
    """Remove damaged checkpoints and all but the newest `limit` others; call it after a new one was written.

    Those that the newest ones need are kept as well.
    """
    # `discard` renames a folder before it deletes the files, so a kill cannot leave a checkpoint with some of them.
    for folder in checkpoints.glob(f"{_DAMAGED_PREFIX}checkpoint-*"):
        discard(folder)
    folders = _sorted_checkpoints(checkpoints)
    needed = {needed_step(folder) for folder in folders[-limit:]}
    for folder in folders[:-limit]:
        if checkpoint_step(folder) not in needed:
            discard(folder)


def _sorted_checkpoints(checkpoints: Path) -> list[Path]:
    folders = [path for path in checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted((path for path in folders if path.is_dir()), key=checkpoint_step)


def _manifest_entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
