"""Run paths: a path that cannot become a folder or is not writable is rejected before the work starts."""

import os
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.runs.run_paths import check_run_path, check_writable, nearest_existing


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
