"""Locations: local paths and paths in an object store."""

from pathlib import Path

import pytest

from toolkit.distributed.locations import Location, list_names, upload
from toolkit.errors import RunError


def test_location_keeps_its_scheme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location("s3://bucket/folder/").child("a.parquet").uri == "s3://bucket/folder/a.parquet"
    assert Location("s3://bucket/x").absolute.uri == "s3://bucket/x"
    assert Location("out").absolute.uri == str(tmp_path / "out")


def test_upload_replaces_a_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    target = Location(str(tmp_path / "out")).child("a")
    assert list_names(Location(str(tmp_path / "out"))) == []
    for _ in range(2):
        upload(tmp_path / "new", target)
    assert (tmp_path / "out" / "a").read_text() == "new" and list_names(Location(str(tmp_path / "out"))) == ["a"]


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(RunError, match="ftp://host/x cannot be opened"):
        Location("ftp://host/x").open()
