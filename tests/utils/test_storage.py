"""A full disk is one sentence, whichever package was writing, and costs nothing that was there."""

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
def test_whoever_writes_a_full_disk_is_one_sentence_and_the_older_file_stays(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    write_text(path, "older")
    why = r"(a file may not become this large here \(see `ulimit -f`\)|the disk is full)"  # numpy does not tell which
    refused = pytest.raises(StorageError, match=rf"^{path} could not be written: {why}\.$")
    with refused, file_size_limit() as limit, atomic_path(path) as partial:
        limit(20_000)
        write(partial)
    assert [one.name for one in tmp_path.iterdir()] == ["file"] and path.read_text(encoding="utf-8") == "older"


def test_a_device_without_room_is_a_full_disk() -> None:
    path = Path("/dev/full")
    with pytest.raises(StorageError, match=r"/dev/full could not be written: the disk is full\."), storage_errors(path):
        with_numpy(path)


def test_what_is_no_full_disk_keeps_its_name(tmp_path: Path) -> None:
    assert (
        disk_full_reason(OSError(errno.EACCES, "no")) is None
        and disk_full_reason(ValueError("os error 28 is a number")) is not None
    )
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file") as partial:
        partial.read_text(encoding="utf-8")


def test_what_a_process_of_the_same_number_left_does_not_get_into_a_new_folder(tmp_path: Path) -> None:
    left = tmp_path / f".folder.{os.getpid()}.partial"  # in a container, every start may have the same number
    left.mkdir()
    (left / "stale").touch()
    with atomic_path(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("number", [2**22 + 1, 2**70, os.getpid(), 1], ids=["nobody", "absurd", "own", "an older one"])
def test_what_killed_processes_left_goes_whoever_has_their_number_now(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f".merged.{number}.partial"
    left.mkdir()
    # Of a process that runs, a later start is made up: the time of a change cannot be.
    monkeypatch.setattr("psutil.Process.create_time", lambda _: left.stat().st_ctime + 1)
    remove_leftovers(tmp_path / "merged")
    assert not left.exists()


def test_what_a_running_process_writes_stays(tmp_path: Path) -> None:
    left = tmp_path / f".merged.{os.getpid()}.partial"
    left.touch()
    remove_leftovers(tmp_path / "merged")
    assert left.exists()


def test_a_folder_that_was_set_aside_as_a_process_was_killed_is_put_back(tmp_path: Path) -> None:
    aside = tmp_path / f".merged.old.{2**22 + 1}.partial"
    aside.mkdir()
    (aside / "weights").touch()
    remove_leftovers(tmp_path / "merged")
    assert (tmp_path / "merged" / "weights").exists() and not aside.exists()
