"""Run paths: a path that cannot become a folder or is not writable is rejected before the work starts."""

import os
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.run_paths import check_can_create, check_run_path, check_writable, nearest_existing
from toolkit.utils.atomic_io import write_text


def test_run_cannot_be_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for file in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(RunError, match=f"cannot be a run folder: {file} is a file"):
            check_run_path(file / "outputs" / "run")


def test_unwritable_folder_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "eval")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root has permission everywhere
    for check in (check_writable, check_run_path):
        with pytest.raises(RunError, match=f"eval: permission denied for {tmp_path}"):
            check(tmp_path / "eval")


def test_nearest_existing_folder_follows_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert nearest_existing(tmp_path / "link" / "outputs" / "run") == tmp_path / "disk"


@pytest.mark.parametrize("letter", ["x", "é", "🦙"])
def test_longest_run_name_fits_all_files(tmp_path: Path, letter: str) -> None:
    length = (255 - len("..old.4194304.partial" + "-quantizing.gguf")) // len(letter.encode())
    check_run_path(tmp_path / (letter * length))
    write_text(RunFolder(tmp_path / (letter * length)).gguf("quantizing"), "")
    with pytest.raises(RunError, match=f"The run folder's name '{letter}+.*' is too long by [1-4] bytes"):
        check_run_path(tmp_path / (letter * (length + 1)))


def test_too_long_run_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is too long by"):
        check_run_path(tmp_path / "/".join(["x" * 99] * 41))


@pytest.mark.parametrize("parent", ["/proc", "/sys", "/proc/self/fd"])
def test_folders_that_refuse_files_are_rejected(parent: str) -> None:
    """Root has permission to write there, but the file system refuses new files."""
    with pytest.raises(RunError, match=r"x cannot be written: .* does not accept new files"):
        check_can_create(Path(parent) / "x", hint="")
    with pytest.raises(RunError, match="x cannot be written: "):  # without root's permissions, for another reason
        check_run_path(Path(parent) / "x")


def test_checks_of_a_path_leave_nothing(tmp_path: Path) -> None:
    check_run_path(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
