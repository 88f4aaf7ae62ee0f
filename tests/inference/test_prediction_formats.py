"""Formats of predicted files: the output has the delimiter, quoting, encoding and header of the input."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tests.inference.test_prediction import LABELS, open_classifier, scorers  # noqa: F401 - a fixture
from toolkit.data.sources import stream_file
from toolkit.errors import DataError
from toolkit.inference.prediction import predict_file, predict_row
from toolkit.runs.run_folder import RunFolder

Scorers = Callable[..., Any]
ADDED = ["prediction", *(f"probability_{label}" for label in LABELS)]
PAIRS = [(f'Il a "{n}" chats, dit-il ; oui', f'"Il a {n} chats') for n in range(7)]
SINGLE = ('task.user="{text}"', "data.columns={}", "evaluation.slice_by=[]")


def test_quotation_marks_stay_ordinary(trained: RunFolder, tmp_path: Path, scorers: Scorers) -> None:  # noqa: F811
    scorers()
    source, target = tmp_path / "in.tsv", tmp_path / "out.txt"
    lines = ["premise\thypothesis\tn", *(f"{a}\t{b}\t{n}" for n, (a, b) in enumerate(PAIRS))]
    source.write_bytes("\r\n".join(lines).encode())
    predict_file(open_classifier(trained), source, target)
    written = [line.split("\t") for line in target.read_text(encoding="utf-8").splitlines()]
    assert [line[:3] for line in written] == [line.split("\t") for line in lines]
    assert written[0][3:] == ADDED and len(list(stream_file(target))) == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_spreadsheet_keeps_its_format(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, encoding: str  # noqa: F811
) -> None:  # fmt: skip
    scorers()
    source, target = tmp_path / "in.csv", tmp_path / "OUT.CSV.GZ"
    frame = pandas.DataFrame([(*pair, "é;\nà") for pair in PAIRS], columns=["premise", "hypothesis", "n"])
    frame.to_csv(source, sep=";", index=False, encoding=encoding)
    given = ["data.eval.format.encoding=cp1252"] if encoding == "cp1252" else []
    predict_file(open_classifier(trained, *given), source, target)
    written = pandas.read_csv(target, sep=";", encoding=encoding, compression="gzip")
    assert list(written) == [*frame, *ADDED]
    assert written[list(frame)].equals(frame) and set(written["prediction"]) <= set(LABELS)


def test_file_without_header_stays_so(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    scorers()
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    pandas.DataFrame(PAIRS).to_csv(source, header=False, index=False)
    classifier = open_classifier(
        trained, "data.eval.format.header=false", "data.eval.format.names=[premise, hypothesis]"
    )
    with caplog.at_level("INFO", "toolkit"):
        predict_file(classifier, source, target)
    assert f"columns added: {', '.join(ADDED)}" in caplog.text
    written = pandas.read_csv(target, header=None, names=["premise", "hypothesis", *ADDED])
    assert list(zip(written["premise"], written["hypothesis"], strict=True)) == PAIRS
    expected = [predict_row(classifier, dict(zip(("premise", "hypothesis"), pair, strict=True))) for pair in PAIRS]
    assert written["prediction"].tolist() == [prediction.label for prediction in expected]


def test_json_document_stays_a_list(trained: RunFolder, tmp_path: Path, scorers: Scorers) -> None:  # noqa: F811
    scorers()
    source, target = tmp_path / "in.json", tmp_path / "out.json"
    rows = [{"premise": a, "pair": {"hypothesis": b}, "n": [1]} for a, b in PAIRS]
    source.write_text(json.dumps({"test": rows, "n": 7}), encoding="utf-8")
    nested = ("data.eval.format.records=test", 'data.columns={hypothesis: "pair.hypothesis"}')
    predict_file(open_classifier(trained, *nested), source, target)
    written = json.loads(target.read_text(encoding="utf-8"))
    assert [{key: row[key] for key in rows[0]} for row in written] == rows
    assert list(written[0])[3:] == ["prediction", "probabilities"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_probabilities_as_labels_are_kept(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, suffix: str  # noqa: F811
) -> None:  # fmt: skip
    """Labels are not read, so that even those that could not be trained on are written as they are."""
    scorers()
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    label = {"neutral": 0.5, "maybe": 0.75}
    frame = pandas.DataFrame([{"premise": a, "hypothesis": b, "label": label} for a, b in PAIRS])
    if suffix == ".parquet":
        frame.to_parquet(source)
    else:
        frame.to_json(source, orient="records", lines=True)
    predict_file(open_classifier(trained), source, target)
    assert [row["label"] for row in stream_file(target)] == [label] * len(PAIRS)


@pytest.mark.parametrize("suffix", [".jsonl.zip", ".parquet.gz", ".ndjson.gz"])
def test_compressed_input_is_predicted(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, suffix: str  # noqa: F811
) -> None:  # fmt: skip
    scorers()
    rows = [{"premise": a, "hypothesis": b} for a, b in PAIRS]
    source, kind = tmp_path / f"in{suffix}", ".parquet" if "parquet" in suffix else ".jsonl"
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == ".parquet":
        table = pandas.DataFrame(rows).assign(c=pandas.Categorical(["a", "b"] * 3 + ["a"]))
        table.to_parquet(tmp_path / "plain.parquet", index=False)
        content = (tmp_path / "plain.parquet").read_bytes()
    if suffix.endswith(".zip"):
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("in.jsonl", content)
    else:
        source.write_bytes(gzip.compress(content))
    targets = [tmp_path / f"out{kind}", tmp_path / f"out{kind}.gz", tmp_path / f"again{kind}.gz"]
    for target in targets:
        predict_file(open_classifier(trained), source, target)
    assert gzip.decompress(targets[1].read_bytes()) == targets[0].read_bytes()
    assert targets[1].read_bytes() == targets[2].read_bytes(), "no time or name is in the archive"
    written = list(stream_file(targets[1]))
    assert [{key: row[key] for key in rows[0]} for row in written] == rows and "prediction" in written[0]
    if kind == ".parquet":
        assert pyarrow.types.is_dictionary(pyarrow.parquet.read_schema(targets[0]).field("c").type)
        assert [row["c"] for row in written] == ["a", "b"] * 3 + ["a"]


def test_lines_of_text_become_a_table(trained: RunFolder, tmp_path: Path, scorers: Scorers) -> None:  # noqa: F811
    scorers()
    source, target = tmp_path / "in.txt", tmp_path / "out.tsv"
    texts = ['Il a dit "oui".', '"Non', "3,5; a|b", "été"]
    source.write_bytes("\r\n".join(texts).encode("utf-8-sig"))
    predict_file(open_classifier(trained, *SINGLE), source, target)
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["text"] for row in rows] == texts and list(rows[0]) == ["text", *ADDED]


def test_txt_with_the_column_is_a_table(trained: RunFolder, tmp_path: Path, scorers: Scorers) -> None:  # noqa: F811
    scorers()
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    for header, rows in [("text", "a\nb\n"), ("n\ttext", "1\ta\n2\tb\n")]:
        source.write_text(f"{header}\n{rows}", encoding="utf-8")
        predict_file(open_classifier(trained, *SINGLE), source, target)
        assert [row["text"] for row in stream_file(target)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "overrides", "message"),
    [
        ("in.txt", "a\n\nb\n", SINGLE, r"in\.txt, line 2 is blank"),
        ("in.txt", "a\tb\nc\td\n", SINGLE, "has no column 'text'"),
        ("in.csv", "x;y\na;b\n", (), "not separated by ','"),
        ("in.csv", "Il pleut.,3\nIl neige.,4\n", (), "its first line looks like data"),
        ("in.csv", "premise,hypothesis\na,b\n", ("data.eval.format.encoding=ascii", "task.labels=[é, à]",
         "task.verbalizers={é: é, à: à}", "data.label_map=null"), "is encoded in ascii, which cannot write"),
    ],
)  # fmt: skip
def test_uncertain_input_is_refused_before_scoring(
    trained: RunFolder, tmp_path: Path, scorers: Scorers, name: str, content: str, overrides: tuple[str, ...], message: str  # noqa: F811, E501
) -> None:  # fmt: skip
    opened = scorers()
    source, target = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        predict_file(open_classifier(trained, *overrides), source, target)
    assert not opened and not target.exists()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in.csv", "out.tsv", "must have the same format"),
        ("in.csv", "out.csv.zip", "cannot be a zip archive"),
        ("in.csv.gz", "out.jsonl.gz", "must have the same format"),
        ("in.xlsx", "out.xlsx", r"does not end in one of \.jsonl"),
    ],
)
def test_other_output_format_is_refused(
    trained: RunFolder, tmp_path: Path, source: str, target: str, message: str
) -> None:
    (tmp_path / source).touch()
    with pytest.raises(DataError, match=message):
        predict_file(open_classifier(trained), tmp_path / source, tmp_path / target)
