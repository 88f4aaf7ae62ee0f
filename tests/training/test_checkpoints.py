"""Checkpoints: a complete one is found, a damaged one is named and skipped, and the disk stays bounded."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.training.checkpoints import checkpoint_folder, clean_up, find_checkpoints, keep_newest, new_checkpoint


def write(checkpoints: Path, *steps: int) -> None:
    for step in steps:
        with new_checkpoint(checkpoint_folder(checkpoints, step)) as folder:
            (folder / "weights").write_bytes(bytes(range(256)) * step)
            (folder / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_is_that_of_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    write(tmp_path, 8, 10, 9)
    os.utime(checkpoint_folder(tmp_path, 10), (0, 0))
    found = find_checkpoints(tmp_path)
    assert (found.newest, found.step, found.damaged) == (checkpoint_folder(tmp_path, 10), 10, ())
    assert find_checkpoints(tmp_path / "none").step == 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "weights").write_bytes(b"\0" * 100), "weights has 100 of 1,024 bytes"),
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: flip_a_bit(folder / "weights"), "weights was changed"),
        (lambda folder: flip_a_bit(folder / "state.json"), "state.json was changed"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"weights": {"byt', encoding="utf-8"),
            "its manifest.json cannot be read",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("[]", encoding="utf-8"),
            "its manifest.json cannot be read",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{}", encoding="utf-8"),
            "its manifest.json names no file",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    write(tmp_path, 2, 4)
    damage(checkpoint_folder(tmp_path, 4))
    found = find_checkpoints(tmp_path)
    assert found.newest == checkpoint_folder(tmp_path, 2)
    assert found.damaged == ((checkpoint_folder(tmp_path, 4), sentence),)
    clean_up(tmp_path, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "damaged-checkpoint-4"]
    write(tmp_path, 6)
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 2)

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"checkpoint-2 cannot be read: \[Errno 5\]"):
        patch.setattr(Path, "read_bytes", fail)
        find_checkpoints(tmp_path)
    assert find_checkpoints(tmp_path).newest


def test_every_cut_of_every_file_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for path in checkpoint_folder(tmp_path, 1).iterdir():
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert find_checkpoints(tmp_path).newest is None, (path.name, length)
        path.write_bytes(whole)
    assert find_checkpoints(tmp_path).newest


def test_a_checkpoint_whose_writing_failed_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(RuntimeError), new_checkpoint(checkpoint_folder(tmp_path, 4)) as folder:
        (folder / "weights").write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_only_as_many_are_kept_as_the_recipe_says_and_nothing_that_a_kill_left(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 10, 9)
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    # In a container a killed process had the number of one that runs now.
    for name in (f".checkpoint-3.{os.getpid()}.partial", f".checkpoint-1.old.{os.getpid()}.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"half")
    clean_up(tmp_path, find_checkpoints(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_writing_a_checkpoint_again_replaces_it_whole(tmp_path: Path) -> None:
    write(tmp_path, 2)
    flip_a_bit(checkpoint_folder(tmp_path, 2) / "weights")
    (checkpoint_folder(tmp_path, 2) / "of an older version").touch()
    write(tmp_path, 2)
    assert find_checkpoints(tmp_path).newest == checkpoint_folder(tmp_path, 2)
    assert sorted(path.name for path in checkpoint_folder(tmp_path, 2).iterdir()) == [
        "manifest.json",
        "state.json",
        "weights",
    ]
