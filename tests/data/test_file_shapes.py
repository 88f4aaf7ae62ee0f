"""Files as they are published: every shape gives the rows that an independent reader finds."""

import csv
import gzip
import json
import random
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from toolkit.data.parquet_files import open_parquet
from toolkit.data.sources import read_rows
from toolkit.recipe.data_section import FormatSection, Source

WORDS = ["Le chat", "dort", "sur", "le toit", "été", "cœur", "a dit", "non", "l'eau", "3,5 %", "1;2", "a|b", "«oui»"]


def sentences(count: int, *, quotes: bool, seed: int = 0) -> list[str]:
    """Return different sentences; with quotes, most have a lone quotation mark somewhere, as in MRPC and SST-2."""
    generator = random.Random(seed)
    result = []
    for number in range(count):
        words = [generator.choice(WORDS) for _ in range(generator.randint(3, 9))]
        if quotes and generator.random() < 0.7:
            position = generator.randrange(len(words))
            words[position] = generator.choice(['"{}', '{}"', '"{}"', 'a"{}', '""{}']).format(words[position])
        result.append(f"{' '.join(words)} {number}.")
    if quotes:
        result[0] = f'"{result[0]}'  # the first and the last field open with a lone mark
        result[-1] = f'"{result[-1]}'
    return result


def split_lines(content: str, delimiter: str) -> list[list[str]]:
    """Read a file without quoting: a line is a row, and every character is kept."""
    return [line.split(delimiter) for line in content.removeprefix("\ufeff").splitlines() if line]


def as_rows(table: Sequence[Sequence[str]], names: Sequence[str] | None = None) -> list[dict[str, str]]:
    header, *records = [list(names), *table] if names else list(table)
    return [dict(zip(header, record, strict=True)) for record in records]


def read(path: Path, columns: Sequence[str] = (), **format: Any) -> list[dict[str, Any]]:
    return read_rows(Source(path=str(path), format=FormatSection(**format)), columns)[0]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("rte.tsv", ["index", "sentence1", "sentence2", "label"]),
        ("msr_paraphrase_train.txt", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]),
        ("sst2.tsv", ["sentence", "label"]),
        ("stsb.tsv", ["index", "genre", "sentence1", "sentence2", "score"]),
        ("PAWSX.TSV", ["id", "sentence1", "sentence2", "label"]),
        ("SICK.tab", ["pair_ID", "sentence_A", "sentence_B", "entailment_label"]),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_lone_quotation_marks_are_kept(tmp_path: Path, name: str, header: list[str], seed: int) -> None:
    generator = random.Random(seed)
    columns = [
        sentences(40, quotes=True, seed=seed * 10 + n) if "ent" in column or "String" in column else
        [str(generator.randint(0, 9)) for _ in range(40)]
        for n, column in enumerate(header)
    ]  # fmt: skip
    lines = ["\t".join(header), *("\t".join(fields) for fields in zip(*columns, strict=True))]
    content = "\ufeff" * name.startswith("msr") + "\r\n".join(lines) + "\r\n"
    (tmp_path / name).write_bytes(content.encode())
    expected = as_rows(split_lines(content, "\t"))
    assert len(expected) == 40
    assert read(tmp_path / name, header[-2:]) == read(tmp_path / name) == expected
    frame = pandas.read_csv(tmp_path / name, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)
    assert frame.to_dict("records") == expected


def test_scitail_without_header(tmp_path: Path) -> None:
    lines = [f"{a}\t{b}\t{'neutral' if n % 2 else 'entails'}" for n, (a, b) in enumerate(
        zip(sentences(30, quotes=True), sentences(30, quotes=True, seed=1), strict=True))]  # fmt: skip
    path = tmp_path / "scitail.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    names = ["premise", "hypothesis", "label"]
    expected = as_rows(split_lines("\n".join(lines), "\t"), names)
    assert len(expected) == 30 and read(path, names, header=False, names=names) == expected


def test_ag_news_without_header(tmp_path: Path) -> None:
    table = [[str(n % 4 + 1), a, f'{b} "cité", dit-il'] for n, (a, b) in enumerate(
        zip(sentences(30, quotes=False), sentences(30, quotes=False, seed=1), strict=True))]  # fmt: skip
    path = tmp_path / "train.csv"
    pandas.DataFrame(table).to_csv(path, header=False, index=False, quoting=csv.QUOTE_ALL)
    names = ["label", "title", "text"]
    frame = pandas.read_csv(path, header=None, names=names, dtype=str)
    assert read(path, names, header=False, names=names) == frame.to_dict("records") == as_rows(table, names)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_spreadsheet_semicolons(tmp_path: Path, encoding: str) -> None:
    """A BOM, CRLF, commas and semicolons in the texts, and no key in the recipe except for the encoding of Windows."""
    texts = [f"{text}, et « {n} »" for n, text in enumerate(sentences(30, quotes=False))]
    frame = pandas.DataFrame({"id": range(30), "text": texts, "label": ["oui", "non"] * 15}, dtype=str)
    path = tmp_path / "tweets.csv"
    frame.to_csv(path, sep=";", index=False, encoding=encoding, lineterminator="\r\n")
    given = {"encoding": "cp1252"} if encoding == "cp1252" else {}
    assert read(path, ["text", "label"], **given) == frame.to_dict("records")


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".txt"])
@pytest.mark.parametrize("seed", range(5))
def test_multi_line_fields_of_pandas(tmp_path: Path, suffix: str, seed: int) -> None:
    generator = random.Random(seed)
    texts = [
        f"{text}{generator.choice(['', chr(10), chr(9) + 'x' + chr(10) * 2, chr(34) + ',' + chr(10)])}suite {n}"
        for n, text in enumerate(sentences(30, quotes=True, seed=seed))
    ]
    frame = pandas.DataFrame({"id": range(30), "text": texts, "source": "web", "label": ["a", "b"] * 15}, dtype=str)
    path = tmp_path / f"rows{suffix}"
    frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    assert read(path, ["text", "label"]) == frame.to_dict("records")


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.csv.zip", "a.zip", "A.CSV", "A.CSV.GZ", "a.jsonl.gz", "a.ndjson.zip"])
def test_compressed_files(tmp_path: Path, name: str) -> None:
    frame = pandas.DataFrame({"text": sentences(30, quotes=True), "label": ["a", "b"] * 15})
    inner = name.lower().removesuffix(".gz").removesuffix(".zip")
    inner = inner if "." in inner else f"{inner}.csv"
    if "json" in inner:
        content = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records"))
    else:
        content = frame.to_csv(index=False, sep="\t" if ".tsv" in inner else ",")
    path = tmp_path / name
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__MACOSX/._a", "x")
            archive.writestr("folder/" + inner, content)
    else:
        path.write_text(content, encoding="utf-8")
    assert read(path, ["text"]) == frame.to_dict("records")


def test_clinc_lists_under_keys(tmp_path: Path) -> None:
    splits = {
        split: [[text, f"intent_{n % 5}"] for n, text in enumerate(sentences(20, quotes=True, seed=seed))]
        for seed, split in enumerate(["train", "val", "oos_train"])
    }
    path = tmp_path / "data_full.json"
    path.write_text(json.dumps(splits), encoding="utf-8")
    for split, rows in splits.items():
        assert read(path, ["text"], records=split, names=("text", "label")) == as_rows(rows, ["text", "label"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_every_encoding(tmp_path: Path, encoding: str, suffix: str) -> None:
    texts = [text.replace("œ", "oe") for text in sentences(30, quotes=True)]
    frame = pandas.DataFrame({"text": texts, "label": ["é", "à"] * 15})
    path = tmp_path / f"rows{suffix}"
    rows = frame.to_dict("records")
    content = {
        ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        ".json": json.dumps(rows, ensure_ascii=False),
        ".csv": frame.to_csv(index=False),
        ".tsv": "\n".join("\t".join(fields) for fields in [list(frame), *frame.to_numpy().tolist()]),
    }[suffix]
    path.write_bytes(content.encode(encoding))
    given = {} if encoding in ("utf-16", "utf-32") else {"encoding": encoding}
    assert read(path, ["text", "label"], **given) == rows


def test_parquet_values_are_objects(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": sentences(30, quotes=True), "label": pandas.Categorical(["a", "b", None] * 10)})
    table = pyarrow.Table.from_pandas(frame)
    table = table.set_column(0, "text", table["text"].cast(pyarrow.large_string()))
    table = table.append_column("annotation", pyarrow.array([{"choice": 1.0}] * 30))
    table = table.append_column("price", pyarrow.array([1] * 30).cast(pyarrow.decimal128(21, 2)))
    table = table.append_column("time", pyarrow.array([0] * 30, pyarrow.timestamp("ns")))
    rows = None
    for name in ("rows.parquet", "rows.parquet.gz"):
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        if name.endswith(".gz"):
            (tmp_path / name).write_bytes(gzip.compress((tmp_path / "rows.parquet").read_bytes()))
        rows = read(tmp_path / name, ["text"])
        assert [row["text"] for row in rows] == frame["text"].tolist()
        assert [row["label"] for row in rows] == ["a", "b", None] * 10
        assert rows[0]["annotation"] == {"choice": 1.0} and str(rows[0]["price"]) == "1.00"


def test_parquet_row_group_is_streamed() -> None:
    """The first rows of a file with a single row group are read without the rest of it."""
    texts = [random.Random(n).randbytes(500).hex() for n in range(8_000)]
    file = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=len(texts), compression="none")

    class CountingFile(BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.read_bytes += len(content)
            return content

    counting = CountingFile(file.getvalue())
    batches = open_parquet(counting).iter_batches(batch_size=10)
    assert next(batches).to_pydict() == {"text": texts[:10]}
    assert counting.read_bytes < len(file.getvalue()) / 2


def test_files_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},1\n", encoding="utf-8")
    pattern = Source(path=str(tmp_path / "*.csv"))
    assert [row["text"] for row in read_rows(pattern)[0]] == ["a", "b", "c"]
    listed = Source(path=(str(tmp_path / "c.csv"), str(tmp_path / "[ab].csv")), limit=2)
    assert [row["text"] for row in read_rows(listed)[0]] == ["c", "a"]


def test_two_byte_order_marks_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff\ufefftext,label\na,b\n", encoding="utf-8")
    assert read(path) == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize("seed", range(60))
def test_standard_writers_are_read_back(tmp_path: Path, seed: int) -> None:
    """Whatever the csv module writes is read back, or refused with the key that decides."""
    from toolkit.errors import DataError

    generator = random.Random(seed)
    alphabet = ["a", '"', ",", ";", "\t", "\n", "|", " ", "é", '""', '",', '"\n"']
    delimiter = generator.choice([",", ";", "\t", "|"])
    table = [["text", "label", "n"]] + [
        ["".join(generator.choices(alphabet, k=generator.randint(1, 8))), generator.choice("ab"), str(n)]
        for n in range(generator.randint(1, 12))
    ]
    path = tmp_path / ("rows.tsv" if delimiter == "\t" else "rows.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=generator.choice([0, 1])).writerows(table)
    assert read(path, ["text", "label"], quoting="standard") == as_rows(table)
    try:
        assert read(path, ["text", "label"]) == as_rows(table)
    except DataError as error:
        assert "format.quoting" in (error.hint or "")
