"""Sources: all formats give the same rows, and a damaged file is rejected by name instead of being read in part."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from toolkit.cli.flags import with_flags
from toolkit.data.columns import Row
from toolkit.data.sources import check_files_exist, describe, parse_data, read_rows, slug
from toolkit.errors import DataError
from toolkit.recipe.data_paths import data_suffix
from toolkit.recipe.data_section import Source

ROWS: list[Row] = [
    {"premise": 'Il dit : « "oui" ».', "hypothesis": "Il parle,\nbien sûr.", "label": "entailment"},
    {"premise": "L'été, il pleut.", "hypothesis": "Il ne pleut pas.", "label": "contradiction"},
]


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_all_formats_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows, columns = read_rows(Source(path=str(write(tmp_path / f"rows{suffix}", ROWS))))
    assert rows == ROWS
    assert columns == ["premise", "hypothesis", "label"]


def test_limit_cuts_the_rows_of_a_tsv(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", [{**row, "hypothesis": "x"} for row in ROWS])
    rows, _ = read_rows(Source(path=str(path), limit=1))
    assert rows == [{**ROWS[0], "hypothesis": "x"}]


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n\npremise,hypothesis,label\n\na,b,neutral\n", encoding="utf-8")
    assert read_rows(Source(path=str(path)))[0] == [{"premise": "a", "hypothesis": "b", "label": "neutral"}]


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("premise,hypothesis,label\na,b,neutral\n", encoding="utf-8-sig")
    assert read_rows(Source(path=str(path)))[1] == ["premise", "hypothesis", "label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "contains no rows"),
        ("rows.csv", b"premise,hypothesis,label\n", "contains no rows"),
        ("rows.json", b"[]", "contains no rows"),
        ("rows.jsonl", b'{"x": ' + b"[" * 101 + b"]" * 101 + b"}", "line 1 is nested too deeply"),
        ("rows.csv", b",".join(b"c%d" % i for i in range(30_000)) + b",c0\n", "two columns named 'c0'"),
        ("rows.jsonl", b'{"premise": "a"}\n{"premise": \n', "line 2 is not JSON"),
        ("rows.jsonl", b'["a"]\n', "line 1 is a list"),
        ("rows.json", b'{"a": 1}', "is not a list of objects"),
        ("rows.json", b'{"a": 1}\n{"a": 2}\n', "is JSON Lines, not one JSON document"),
        ("rows.jsonl", b'[\n{"a": 1}\n]\n', "is one JSON document, not JSON Lines"),
        ("rows.jsonl", b'[{"a": 1}, {"a": 2}]\n', "is one JSON document, not JSON Lines"),
        ("rows.csv", b"premise,hypothesis,label\na,b\n", "row 1 (line 2) has 2 fields for 3 columns"),
        ("rows.tsv", b'premise\thypothesis\tlabel\n"a\tb\tneutral\nc\td\n', "line 3 cannot be read"),
        ("rows.tsv", b'p\th\tl\n"a\tb\tneutral\nc"\td\tneutral\n', "line 2: the file has 1 rows if quotation marks"),
        ("rows.csv", "a,b\nx,é\n".encode("latin-1"), "line 2 is not UTF-8 text: 'x,é'"),
        ("rows.parquet", b"PAR1 not really", "is not a readable Parquet file"),
    ],
)
def test_damaged_file_is_rejected_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name) as raised:
        read_rows(Source(path=str(path)))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(path="/nowhere/rows.csv"), "Data file not found"),
        (Source(path="embedded:nli-de", split="train"), "There is no embedded dataset 'embedded:nli-de'"),
        (Source(path="facebook/xnli", name="fr"), "needs a split"),
        (Source(path="nobody/nothing", split="train"), "neither a local file nor a dataset"),
    ],
)
def test_missing_source_is_rejected(
    source: Source, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=message):
        read_rows(source)


@pytest.mark.parametrize(
    "name",
    [
        ".jsonl",
        ".json",
        ".csv",
        ".tsv",
        ".parquet",
        "ROWS.JSONL",
        "Rows.Csv",
        "ROWS.Parquet",
        "a.ndjson",
        "a.txt",
        "A.TAB",
    ],
)
def test_file_is_read_by_its_ending(tmp_path: Path, name: str) -> None:
    """Also if the extension is the whole name, or in capitals."""
    rows = [{**row, "hypothesis": "x"} for row in ROWS]
    written = write(tmp_path / f"rows{data_suffix(name)}", rows).rename(tmp_path / name)
    source = Source(path=str(written))
    check_files_exist(source)
    assert read_rows(source)[0] == rows
    assert parse_data(str(written)) == source and describe(source) == str(written)


@pytest.mark.parametrize(
    "path",
    ["d/train.text", "train.xlsx", "d/TRAIN.MD", "d/train.jsonl.bz2", "d/train.xml.gz", "/d/train", "./train",
     "../train", "~/train", "d/e/train", "d\\train.dat", "d/rows.arrow"],
)  # fmt: skip
def test_unsupported_file_is_no_dataset(path: str) -> None:
    for split in (None, "train"):
        with pytest.raises(DataError, match=r"is not a data file: its name does not end in one of \.jsonl"):
            check_files_exist(Source(path=path, split=split))
        with pytest.raises(DataError, match=r"is not a data file: its name does not end in one of \.jsonl"):
            read_rows(Source(path=path, split=split))


@pytest.mark.parametrize("path", ["snli", "facebook/xnli", "user/nli.v2", "user/nli-1.0", "user/c4.en"])
def test_dataset_without_split_is_refused_early(path: str) -> None:
    with pytest.raises(DataError, match="needs a split") as raised:
        check_files_exist(Source(path=path))
    assert "If it is a local file, its name must end in one of .jsonl" in (raised.value.hint or "")
    check_files_exist(Source(path=path, split="train"))


@pytest.mark.parametrize("data", ["", "d/train.xlsx", "facebook/xnli", "rows"])
def test_other_data_is_neither_file_nor_embedded(data: str) -> None:
    with pytest.raises(DataError, match=r"is neither a file in one of the formats \.jsonl") as raised:
        parse_data(data)
    assert "--set data.eval.path=facebook/xnli" in with_flags(raised.value.hint or "")


def test_hub_class_labels_become_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"premise": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict({"premise": ["x", "y"], "label": [1, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    monkeypatch.setattr("toolkit.data.hub._is_reachable", lambda _: True)
    rows, _ = read_rows(Source(path="some/set", split="train"))
    assert [row["label"] for row in rows] == ["b", None], "-1 marks a missing label"


def test_unreachable_hub_fails_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import time

    import datasets  # noqa: F401 - its import takes seconds, which must not count

    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    start = time.monotonic()
    with pytest.raises(DataError, match="neither a local file nor a dataset"):
        read_rows(Source(path="nobody/nothing", split="train"))
    assert time.monotonic() - start < 5


def test_slug_includes_the_parent_folder() -> None:
    assert slug(Source(path="/d/xnli_fr/test.jsonl")) == "xnli_fr-test"
    assert slug(Source(path="/d/xnli_fr/TEST.csv.gz")) == "xnli_fr-TEST"
    assert slug(Source(path="/d/xnli_fr/part-*.csv")) == "xnli_fr-part-_"
    assert slug(Source(path=("/d/x/a.csv", "/d/x/b.csv"))) == "x-a-1-more"
    assert slug(Source(path="embedded:nli-fr", split="test_lexical")) == "nli-fr-test_lexical"
    assert slug(Source(path="facebook/xnli", name="fr", split="test")) == "facebook-xnli-fr-test"
