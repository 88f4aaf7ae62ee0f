"""Formats that are not certain, and files that cannot be read: a sentence shows the line and names the key."""

import gzip
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.sources import check_files_exist, read_rows, stream_file
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection, Source

COLUMNS = ("text", "label")


@pytest.mark.parametrize(
    ("name", "content", "given", "message", "hint"),
    [
        # Delimiters
        ("a.csv", "txt;lab\nx;a\n", {}, "not separated by ',': 'txt;lab'", "data.eval.format.delimiter), e.g. to ';'"),
        ("a.tsv", "text,x;label\nx,a\n", {}, r"not separated by '\t': 'text,x;label'", "format.delimiter"),
        # Quotation marks
        ("a.tsv", 'text\tlabel\n"x\ta\ny"\tb\n', {}, "line 2: the file has 1 rows if quotation marks enclose fields, "
         "and 2 rows if they are ordinary characters: '\"x\\ta'", "data.train.format.quoting"),
        ("a.tsv", 'text\tn\tlabel\n"x\t1\ta\ny\nz"\t1\tb\n', {}, "line 2: its quotation mark either encloses",
         "format.quoting"),
        ("a.csv", 'text,label\n"x" y,a\nz\n', {}, "line 2 cannot be read", "line 3 would have 1 fields"),
        ("a.csv", 'text,label\n"x,y",a\n', {"quoting": "none"}, "has 3 fields for 2 columns: '\"x,y\",a'", "standard"),
        ("a.csv", "text,label\nx,a\ny\n", {}, "row 2 (line 3) has 1 fields for 2 columns: 'y'", "format.quoting"),
        # Headers
        ("a.csv", "3,Il pleut.\n4,Il neige.\n", {}, "no column 'text': its first line looks like data, not like the "
         "names of columns: '3,Il pleut.'", "format: {header: false, names: [column1, column2]}"),
        ("a.csv", "x,a\n", {"header": False}, "format.names must name the fields of the lines; the first line is 'x,a'",
         "format.names"),
        ("a.csv", "x,a,b\n", {"header": False, "names": COLUMNS}, "has 3 fields, but format.names has 2 names: 'x,a,b'",
         "format.names"),
        ("a.csv", "text,label\nx,a\n", {"header": False, "names": COLUMNS}, "first line has the names of the columns",
         "format.header"),
        ("a.csv", "text\nx\n", {"header": False, "names": COLUMNS}, "first line has the names of the columns: 'text'",
         "format.header"),
        ("a.csv", "x,a\n", {"header": False, "names": ("text", "text")}, "two columns named 'text'", "Rename"),
        ("a.csv", "text,label\nx,a\n", {"names": COLUMNS}, "format.names has no effect", "format.header"),
        # Encodings
        ("a.csv", b"text,label\nx,a\n\xe9t\xe9,b\n", {}, "line 3 is not UTF-8 text: 'été,b'", "format.encoding"),
        ("a.csv", b"text,label\n\x81,b\n", {"encoding": "cp1252"}, "line 2 is not cp1252 text", "format.encoding"),
        ("a.csv", "text,label\nx,a\n", {"encoding": "latin-15"}, "'latin-15' is not the name of an encoding", "cp1252"),
        ("a.csv", "text,label\nx,a\n", {"encoding": "zip"}, "'zip' is not the name of an encoding", "cp1252"),
        ("a.csv", "text,label\nx,a\n", {"encoding": "utf-16"}, "is not utf-16 text", "format.encoding"),
        ("a.csv", "text,label\nx,a\n".encode("utf-16-be"), {}, "every second byte is zero", "utf-16-be"),
        ("a.csv", "text,label\nx,a\n".encode("utf-8-sig"), {"encoding": "latin-1"}, "byte order mark of UTF-8",
         "Remove format.encoding"),
        # JSON
        ("a.json", '{"text": "x", "label": "a"}\n{"text": "y"}\n', {}, "is JSON Lines, not one JSON document",
         ".jsonl"),
        ("a.jsonl", '[\n{"text": "x"}\n]', {}, "is one JSON document, not JSON Lines", ".json"),
        ("a.jsonl", '{\n"train": [["x", "a"]]\n}', {}, "is one JSON document, not JSON Lines", ".json"),
        ("a.json", '{"train": [["x", "a"]]}', {}, "an object with rows under the keys 'train'", "format.records"),
        ("a.json", '{"train": [{}], "test": [{}], "n": 3}', {}, "under the keys 'train', 'test'", "format.records"),
        ("a.json", '{"train": [{}]}', {"records": "dev"}, "no list under the key 'dev'; its keys are 'train'",
         "'train'"),
        ("a.json", '[{"text": "x"}]', {"records": "train"}, "is a list, so format.records has no effect", "Remove"),
        ("a.json", '{"text": {"0": "x"}, "label": {"0": "a"}}', {}, "one object or list per column ('text', 'label')",
         "to_json('a.jsonl', orient='records', lines=True"),
        ("a.json", '{"text": ["x"], "label": ["a"]}', {}, "one object or list per column",
         "pandas.read_json('a.json')"),
        ("a.json", '"x"', {}, "not a list of objects, but a str", "Write"),
        ("a.json", '[["x", "a"]]', {}, "row 1 is a list, not an object", "format.names"),
        ("a.jsonl", '["x", "a"]\n["y"]\n', {"names": COLUMNS}, 'line 2 has 1 values, but format.names has 2 names: '
         "'[\"y\"]'", "format.names"),
        # Parts of the format that the kind of file does not have
        ("a.jsonl", '{"text": "x"}', {"delimiter": ";"}, "format.delimiter has no effect", "Remove"),
        ("a.csv", "text,label\n", {"records": "train"}, "format.records has no effect", "Remove"),
        # Compression
        ("a.csv.gz", "text,label\n", {}, "cannot be decompressed: Not a gzipped file", "Copy"),
        ("a.csv.gz", gzip.compress(b"text,label\nx,a\n" * 99, mtime=0)[:-12], {}, "cannot be decompressed", "Copy"),
        ("a.csv", gzip.compress(b"text\n", mtime=0), {}, "is a gzip file, but its name does not end in", "a.csv.gz"),
        ("a.csv", b"PK\3\4...", {}, "is a zip archive, but its name does not end in .zip", "Save a spreadsheet as"),
        ("a.zip", "text", {}, "cannot be decompressed: File is not a zip file", "Copy"),
    ],
)  # fmt: skip
def test_uncertain_format_is_refused(
    tmp_path: Path, name: str, content: str | bytes, given: dict[str, Any], message: str, hint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(path=str(path), format=FormatSection(**given))
    with pytest.raises(DataError) as raised:
        read_rows(source, COLUMNS)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert hint in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("3,Il pleut encore sur la ville.\n4,Il neige.\n3,Il vente.\n", ("Il pleut encore sur la ville.", "3")),
        ("Il pleut sur la ville.,Il pleut.,oui\nIl neige.,Il pleut.,non\nIl vente.,Non.,oui\n",
         ("Il pleut sur la ville.", "Il pleut.", "oui")),
    ],
)  # fmt: skip
def test_first_row_as_header_is_refused(tmp_path: Path, content: str, columns: tuple[str, ...]) -> None:
    """Also where the recipe maps its inputs and the label to the values of that row."""
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="its first line looks like data") as raised:
        read_rows(Source(path=str(path)), columns)
    assert "header: false" in (raised.value.hint or "")


def test_long_questions_can_be_columns(tmp_path: Path) -> None:
    """Surveys have such headers."""
    path = tmp_path / "survey.csv"
    path.write_text("What do you think about our service?,label\nGood.,pos\nBad.,neg\n", encoding="utf-8")
    rows, _ = read_rows(Source(path=str(path)), ("What do you think about our service?", "label"))
    assert len(rows) == 2


def test_explicit_format_is_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"x\ta\ny"\tb\n', encoding="utf-8")
    none = read_rows(Source(path=str(path), format=FormatSection(quoting="none")), COLUMNS)[0]
    standard = read_rows(Source(path=str(path), format=FormatSection(quoting="standard")), COLUMNS)[0]
    assert none == [{"text": '"x', "label": "a"}, {"text": 'y"', "label": "b"}]
    assert standard == [{"text": "x\ta\ny", "label": "b"}]


@pytest.mark.parametrize("members", [[], ["a.csv", "b.csv"], ["readme.md"], ["a.csv", "README.txt"]])
def test_archive_has_exactly_one_file(tmp_path: Path, members: list[str]) -> None:
    path = tmp_path / "rows.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "text,label\nx,a\n")
    with pytest.raises(DataError, match="must contain exactly one data file") as raised:
        read_rows(Source(path=str(path)))
    assert all(repr(member) in str(raised.value) for member in members)


def test_files_must_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,a\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,category\nx,a\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.csv has no column 'label', but .*a\.csv does"):
        read_rows(Source(path=str(tmp_path / "*.csv")))


def test_json_files_must_have_the_needed_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "a", "extra": 1}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "y", "label": "b"}\n', encoding="utf-8")
    assert len(read_rows(Source(path=str(tmp_path / "*.jsonl")), COLUMNS)[0]) == 2
    (tmp_path / "b.jsonl").write_text('{"text": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.jsonl has no column 'label'"):
        read_rows(Source(path=str(tmp_path / "*.jsonl")), COLUMNS)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches .*\*\.csv"):
        check_files_exist(Source(path=str(tmp_path / "*.csv")))
    (tmp_path / "a.csv").write_text("text,label\nx,a\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"Data file not found: .*b\.csv"):
        check_files_exist(Source(path=(str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))))
    with pytest.raises(DataError, match="facebook/xnli is not a data file"):
        check_files_exist(Source(path=(str(tmp_path / "a.csv"), "facebook/xnli")))


def test_format_of_a_dataset_is_refused() -> None:
    source = Source(path="embedded:nli-fr", split="train", format=FormatSection(delimiter=";"))
    with pytest.raises(DataError, match="is not a file, so format has no effect"):
        read_rows(source)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".csv.gz"])
def test_memory_does_not_grow_with_rows(tmp_path: Path, suffix: str) -> None:
    def measure_peak(rows: int) -> int:
        path = tmp_path / f"{rows}{suffix}"
        delimiter = "\t" if suffix == ".tsv" else ","
        lines = ["text" + delimiter + "label"] + [f'a "b" {"x" * 5000}{delimiter}a'] * rows
        if suffix == ".jsonl":
            lines = [json.dumps({"text": "x" * 5000, "label": "a"})] * rows
        content = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
        del content, lines
        tracemalloc.start()
        assert sum(1 for _ in stream_file(path, columns=COLUMNS)) == rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    measure_peak(10)
    assert measure_peak(1000) < measure_peak(100) + 300_000
