"""A full disk gives one error for every library and keeps older files; leftovers of killed processes are removed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import save_file

from tests.training.test_resuming import file_size_limit
from toolkit.errors import StorageError
from toolkit.utils.atomic_io import atomic_path, remove_leftovers, write_text
from toolkit.utils.storage import disk_full_reason, storage_errors

BIG = np.zeros(100_000, dtype=np.uint8)


def with_numpy(path: Path) -> None:
    with path.open("wb") as file:
        BIG.tofile(file)


def with_tokenizers(path: Path) -> None:
    vocabulary = {f"word{i}": i for i in range(5_000)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="word0")).save(str(path))  # noqa: S106


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(BIG.tobytes()),
        lambda path: path.write_text("é" * 100_000, encoding="utf-8"),
        lambda path: save_file({"weight": torch.from_numpy(BIG)}, path),
        with_numpy,
        with_tokenizers,
    ],
    ids=["bytes", "text", "safetensors", "numpy", "tokenizers"],
)
def test_failed_write_keeps_the_older_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    write_text(path, "older")
    # numpy does not report which of the two it was.
    reason = r"(the file exceeds the size limit \(see `ulimit -f`\)|the disk is full)"
    expected_error = pytest.raises(StorageError, match=rf"^{path} could not be written: {reason}\.$")
    with expected_error, file_size_limit() as limit, atomic_path(path) as partial:
        limit(20_000)
        write(partial)
    assert [file.name for file in tmp_path.iterdir()] == ["file"] and path.read_text(encoding="utf-8") == "older"


def test_full_device_is_a_full_disk() -> None:
    path = Path("/dev/full")
    with pytest.raises(StorageError, match=r"/dev/full could not be written: the disk is full\."), storage_errors(path):
        with_numpy(path)


def test_other_errors_are_unchanged(tmp_path: Path) -> None:
    assert (
        disk_full_reason(OSError(errno.EACCES, "no")) is None
        and disk_full_reason(ValueError("os error 28 is a number")) is not None
    )
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file") as partial:
        partial.read_text(encoding="utf-8")


def test_leftovers_do_not_get_into_a_new_folder(tmp_path: Path) -> None:
    leftover = tmp_path / f".folder.{os.getpid()}.partial"  # in a container, every start can have the same process id
    leftover.mkdir()
    (leftover / "stale").touch()
    with atomic_path(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("pid", [2**22 + 1, 2**70, os.getpid(), 1], ids=["unused", "invalid", "own", "older"])
def test_leftovers_of_killed_processes_are_removed(tmp_path: Path, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leftover is removed even if a running process has the same process id now."""
    leftover = tmp_path / f".merged.{pid}.partial"
    leftover.mkdir()
    # The process must have started after the leftover was written. A file's ctime cannot be set, so the start is faked.
    monkeypatch.setattr("psutil.Process.create_time", lambda _: leftover.stat().st_ctime + 1)
    remove_leftovers(tmp_path / "merged")
    assert not leftover.exists()


def test_scratch_file_of_a_running_process_stays(tmp_path: Path) -> None:
    scratch = tmp_path / f".merged.{os.getpid()}.partial"
    scratch.touch()
    remove_leftovers(tmp_path / "merged")
    assert scratch.exists()


def test_interrupted_replacement_is_undone(tmp_path: Path) -> None:
    """An older folder that a process renamed before it was killed gets its name back."""
    old_folder = tmp_path / f".merged.old.{2**22 + 1}.partial"
    old_folder.mkdir()
    (old_folder / "weights").touch()
    remove_leftovers(tmp_path / "merged")
    assert (tmp_path / "merged" / "weights").exists() and not old_folder.exists()
