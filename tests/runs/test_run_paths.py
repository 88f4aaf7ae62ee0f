"""Where a run may stand: what cannot become a folder, or cannot be written, is refused at once."""

import os
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.runs.run_paths import check_run_path, check_writable, nearest_existing


def test_what_is_no_folder_has_no_run_below_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for above in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(RunError, match=f"cannot be a run folder: {above} is a file"):
            check_run_path(above / "outputs" / "run")


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "eval")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    for refuse in (check_writable, check_run_path):
        with pytest.raises(RunError, match=f"eval cannot be written: this user may not write {tmp_path}"):
            refuse(tmp_path / "eval")


def test_the_nearest_folder_is_looked_for_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert nearest_existing(tmp_path / "link" / "outputs" / "run") == tmp_path / "disk"
