"""Tests of checkpoint folders: the newest intact one is used, damaged ones are skipped, old ones are removed."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.training.checkpoints import (
    checkpoint_folder,
    checkpoint_step,
    clean_up,
    find_checkpoints,
    keep_newest,
    new_checkpoint,
)


def write_checkpoints(checkpoints: Path, *steps: int) -> None:
    for step in steps:
        with new_checkpoint(checkpoint_folder(checkpoints, step)) as folder:
            (folder / "weights").write_bytes(bytes(range(256)) * step)
            (folder / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_newest_checkpoint_has_the_highest_step(tmp_path: Path) -> None:
    """The modification times of the folders do not matter."""
    write_checkpoints(tmp_path, 8, 10, 9)
    os.utime(checkpoint_folder(tmp_path, 10), (0, 0))
    checkpoints = find_checkpoints(tmp_path)
    assert (checkpoints.newest, checkpoints.step, checkpoints.damaged) == (checkpoint_folder(tmp_path, 10), 10, ())
    assert find_checkpoints(tmp_path / "none").step == 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "weights").write_bytes(b"\0" * 100), "weights has 100 of 1,024 bytes"),
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: flip_a_bit(folder / "weights"), "weights has changed since it was written"),
        (lambda folder: flip_a_bit(folder / "state.json"), "state.json has changed since it was written"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"weights": {"byt', encoding="utf-8"),
            "manifest.json is not a valid manifest",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("[]", encoding="utf-8"),
            "manifest.json is not a valid manifest",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text("{}", encoding="utf-8"),
            "manifest.json lists no files",
        ),
    ],
)
def test_damaged_checkpoint_is_reported_and_skipped(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    """It is renamed when training resumes and removed once a newer checkpoint exists."""
    write_checkpoints(tmp_path, 2, 4)
    damage(checkpoint_folder(tmp_path, 4))
    checkpoints = find_checkpoints(tmp_path)
    assert checkpoints.newest == checkpoint_folder(tmp_path, 2)
    assert checkpoints.damaged == ((checkpoint_folder(tmp_path, 4), sentence),)
    clean_up(tmp_path, checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "damaged-checkpoint-4"]
    write_checkpoints(tmp_path, 6)
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]


def test_unreadable_checkpoint_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoints(tmp_path, 2)

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"checkpoint-2 cannot be read: \[Errno 5\]"):
        patch.setattr(Path, "read_bytes", fail)
        find_checkpoints(tmp_path)
    assert find_checkpoints(tmp_path).newest


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 1)
    for path in checkpoint_folder(tmp_path, 1).iterdir():
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            assert find_checkpoints(tmp_path).newest is None, (path.name, length)
        path.write_bytes(content)
    assert find_checkpoints(tmp_path).newest


def test_failed_write_leaves_no_checkpoint(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 2)
    with pytest.raises(RuntimeError), new_checkpoint(checkpoint_folder(tmp_path, 4)) as folder:
        (folder / "weights").write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_old_checkpoints_and_leftovers_are_removed(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 1, 2, 10, 9)
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    # In a container, a killed process may have had the process id of this one.
    for name in (f".checkpoint-3.{os.getpid()}.partial", f".checkpoint-1.old.{os.getpid()}.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"half")
    clean_up(tmp_path, find_checkpoints(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def needs_best(best: dict[int, int]) -> Callable[[Path], int | None]:
    """Return a function that maps a checkpoint to the best step at its time."""
    return lambda folder: best.get(checkpoint_step(folder))


def test_needed_checkpoints_are_kept(tmp_path: Path) -> None:
    """A run may resume from either of the two newest checkpoints, and each needs the best step at its time."""
    write_checkpoints(tmp_path, 2, 4, 6, 8, 10)
    keep_newest(tmp_path, 2, needs_best({8: 4, 10: 10, 6: 2}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    keep_newest(tmp_path, 1, needs_best({8: 4, 10: 10}))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


@pytest.mark.parametrize("is_missing", [False, True])
def test_checkpoint_without_its_best_is_skipped(tmp_path: Path, is_missing: bool) -> None:
    write_checkpoints(tmp_path, 2, 4, 6)
    best = needs_best({2: 2, 4: 4, 6: 4})
    assert find_checkpoints(tmp_path, best).step == 6
    (checkpoint_folder(tmp_path, 4) / "weights").unlink()
    damage = "weights is missing"
    if is_missing:
        shutil.rmtree(checkpoint_folder(tmp_path, 4))
        damage = "manifest.json is missing"
    checkpoints = find_checkpoints(tmp_path, best)
    assert checkpoints.step == 2
    assert checkpoints.damaged[0] == (
        checkpoint_folder(tmp_path, 6),
        f"the checkpoint of its best step, checkpoint-4, is damaged ({damage})",
    )


def test_rewritten_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, 2)
    flip_a_bit(checkpoint_folder(tmp_path, 2) / "weights")
    (checkpoint_folder(tmp_path, 2) / "of an older version").touch()
    write_checkpoints(tmp_path, 2)
    assert find_checkpoints(tmp_path).newest == checkpoint_folder(tmp_path, 2)
    assert sorted(path.name for path in checkpoint_folder(tmp_path, 2).iterdir()) == [
        "manifest.json",
        "state.json",
        "weights",
    ]
