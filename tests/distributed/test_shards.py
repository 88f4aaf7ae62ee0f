"""Shards: which files they are, their columns, and which of them are done."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as arrow_fs
from pyarrow import parquet

from toolkit.distributed.shards import (
    Location,
    Shard,
    ShardResult,
    check_same_columns,
    find_missing,
    list_shards,
    save_result,
    upload,
    write_manifest,
)
from toolkit.errors import DataError, RunError
from toolkit.recipe.data_section import FormatSection

ORIGIN = {"model": "adapter", "adapter": "abc", "overrides": {}}
INPUTS = ["premise", "hypothesis"]


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        table = pa.table({"premise": ["Un chat dort."], "hypothesis": ["Rien."], "n": [number]})
        parquet.write_table(table, folder / f"part-{number}.parquet")
    (folder / "notes.txt").write_text("not a shard")
    return list_shards(f"{folder}/*.parquet")


def finish(output: Location, shard: Shard, origin: dict[str, object] = ORIGIN, rows: int = 2) -> None:
    upload(Path(shard.uri), output.child(shard.name))
    save_result(output, ShardResult(shard, dict(origin), rows, 1))


def test_pattern_lists_matching_files_by_name(shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [shard.name for shard in shards] == [f"part-{number}.parquet" for number in range(3)]
    paths = [Path(shard.uri) for shard in shards]
    assert all(path.is_absolute() for path in paths)
    assert [shard.size for shard in shards] == [path.stat().st_size for path in paths]
    monkeypatch.chdir(Path(shards[0].uri).parent)
    assert list_shards("*.parquet") == shards, "a relative pattern, for workers with another working directory"


def test_pattern_in_the_root_folder(shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(shards[0].uri).parent
    local = arrow_fs.LocalFileSystem
    monkeypatch.setattr(arrow_fs, "LocalFileSystem", lambda: arrow_fs.SubTreeFileSystem(str(root), local()))
    assert [shard.uri for shard in list_shards("/*.parquet")] == [f"/part-{number}.parquet" for number in range(3)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{}/*.csv", "No file matches"), ("{}/*/*.parquet", "only the file name"),
     ("{}/none/*.parquet", "cannot be listed"), ("ftp://host/*.parquet", "cannot be opened")],
)  # fmt: skip
def test_bad_patterns_are_refused(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, RunError), match=message):
        list_shards(pattern.format(tmp_path))


def test_shards_with_different_columns_are_refused(shards: list[Shard]) -> None:
    check_same_columns(shards, FormatSection(), INPUTS)
    folder = Path(shards[0].uri).parent
    parquet.write_table(pa.table({"premise": ["a"], "text": ["b"]}), folder / "part-9.parquet")
    with pytest.raises(DataError, match=r"part-9\.parquet has the columns premise, text, but part-0\.parquet has"):
        check_same_columns(list_shards(f"{folder}/*.parquet"), FormatSection(), INPUTS)
    with pytest.raises(DataError, match="different formats"):
        check_same_columns(list_shards(f"{folder}/*"), FormatSection(), INPUTS)
    (folder / "part-8.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"part-8\.parquet cannot be read"):
        check_same_columns(list_shards(f"{folder}/part-[08].parquet"), FormatSection(), INPUTS)


def test_csv_shards_are_compared_by_their_headers(tmp_path: Path) -> None:
    for name, header in (("a", "premise;hypothesis"), ("b", "premise;hypothesis"), ("c", "premise;claim")):
        (tmp_path / f"{name}.csv").write_text(f"{header}\nUn chat dort.;Rien.\n", encoding="utf-8")
    check_same_columns(list_shards(f"{tmp_path}/[ab].csv"), FormatSection(), INPUTS)
    with pytest.raises(DataError, match=r"c\.csv"):
        check_same_columns(list_shards(f"{tmp_path}/*.csv"), FormatSection(), INPUTS)


def test_only_missing_shards_are_left(shards: list[Shard], tmp_path: Path) -> None:
    output = Location(str(tmp_path / "out"))
    assert find_missing(output, shards, ORIGIN) == shards
    finish(output, shards[1])
    assert find_missing(output, shards, ORIGIN) == [shards[0], shards[2]]
    # A worker that was killed between the output and its record, and one that was killed in the middle.
    upload(Path(shards[0].uri), output.child(shards[0].name))
    (tmp_path / "out" / "part-2.parquet.0123abcd.partial").write_bytes(b"half")
    assert find_missing(output, shards, ORIGIN) == [shards[0], shards[2]]
    (tmp_path / "out" / "_done" / "part-1.parquet.json").write_text("{")
    assert find_missing(output, shards, ORIGIN) == shards


def test_outputs_of_another_model_are_refused(shards: list[Shard], tmp_path: Path) -> None:
    output = Location(str(tmp_path / "out"))
    finish(output, shards[0])
    with pytest.raises(RunError, match="was written with another adapter"):
        find_missing(output, shards, ORIGIN | {"adapter": "def"})
    parquet.write_table(pa.table({"premise": ["x"], "hypothesis": ["y"], "n": [7]}), shards[0].uri)
    with pytest.raises(RunError, match="was written with another input shard"):
        find_missing(output, list_shards(f"{Path(shards[0].uri).parent}/*.parquet"), ORIGIN)


def test_further_shards_need_the_same_model(shards: list[Shard], tmp_path: Path) -> None:
    output = Location(str(tmp_path / "out"))
    finish(output, shards[0])
    assert find_missing(output, shards[1:], ORIGIN) == shards[1:]
    with pytest.raises(RunError, match=r"part-0\.parquet was written with another adapter"):
        find_missing(output, shards[1:], ORIGIN | {"adapter": "def"})
    finish(output, shards[1])
    assert [entry["uri"] for entry in write_manifest(output, shards, ORIGIN)["shards"]] == [
        shard.uri for shard in shards[:2]
    ]


def test_foreign_folder_is_refused(shards: list[Shard], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").write_text("mine")
    with pytest.raises(RunError, match=r"contains chapter\.md, which is not an output"):
        find_missing(Location(str(tmp_path / "thesis")), shards, ORIGIN)
    folder = Path(shards[0].uri).parent
    (tmp_path / "link").symlink_to(folder)
    for same in (str(folder), f"{folder}/../shards", str(tmp_path / "link"), f"file://{folder}"):
        with pytest.raises(RunError, match="is the folder of the input"):
            find_missing(Location(same), shards, ORIGIN)
    linked = tmp_path / "linked"  # as in the Hub's cache, where files are links
    linked.mkdir()
    (linked / shards[0].name).symlink_to(shards[0].uri)
    with pytest.raises(RunError, match="is the folder of the input"):
        find_missing(Location(str(linked)), list_shards(f"{linked}/*.parquet"), ORIGIN)


def test_shard_cannot_be_the_manifest(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "in" / "manifest.json"), 1, None)
    with pytest.raises(DataError, match=r"is named manifest\.json, which is reserved"):
        find_missing(Location(str(tmp_path / "out")), [shard], ORIGIN)


def test_manifest_adds_up_the_shards(shards: list[Shard], tmp_path: Path) -> None:
    output = Location(str(tmp_path / "out"))
    for shard in shards:
        finish(output, shard)
    names = ("part-1.parquet.0123abcd.partial", "_done/part-1.parquet.json.0123abcd.partial")
    for name in (*names, "part-9.parquet.0123abcd.partial"):  # the last is of another driver
        (tmp_path / "out" / name).write_bytes(b"half, of a killed worker")
    manifest = write_manifest(output, shards, ORIGIN)
    assert [path.name for path in (tmp_path / "out").rglob("*.partial")] == ["part-9.parquet.0123abcd.partial"]
    assert manifest["rows"] == 6 and manifest["truncated"] == 3 and len(manifest["shards"]) == 3
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest


def test_memory_file_system_is_copied_from(tmp_path: Path, shards: list[Shard]) -> None:
    """Object stores go through the same calls as pyarrow's other file systems, e.g. one with a scheme."""
    from toolkit.distributed.shards import download

    remote = Shard(f"file://{shards[0].uri}", shards[0].size, None)
    assert download(remote, tmp_path).read_bytes() == Path(shards[0].uri).read_bytes()


def test_flags_need_files(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("predict", "run", "--ray", "local", "--text", "x")[0] == 2
