"""A file's rows with the model's answers beside them, in the file's own format, a few rows in memory at a time."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.data.sources import Row, stream_file
from toolkit.errors import DataError

PREDICTION, PROBABILITIES = "prediction", "probabilities"
_PARQUET_ROWS = 10_000  # of a row group


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decoded label of a row, and the probability of each label in their order."""

    label: str
    probabilities: list[float]

    def table(self, labels: Sequence[str]) -> str:
        """The label, and below it the probability of each, for a terminal."""
        width = max(map(len, labels))
        label_probabilities = zip(labels, self.probabilities, strict=True)
        return "\n".join(
            [self.label, *(f"{label:<{width}}  {probability:.6f}" for label, probability in label_probabilities)]
        )


def check_formats(source: Path, target: Path) -> None:
    """Refuse a pair of files between which rows cannot be streamed.

    Raises:
        DataError: naming what is wrong with them.
    """
    if not source.is_file():
        raise DataError(f"There is no data file {source}.")
    if source.suffix not in _WRITERS:
        raise DataError(f"{source} is not one of {' '.join(_WRITERS)}.", hint="Convert it, e.g. to .jsonl.")
    if target.suffix != source.suffix:
        raise DataError(
            f"The output {target} would have another format than the input {source}.",
            hint=f"Give it the ending {source.suffix}.",
        )
    if target.is_dir():
        raise DataError(f"The output {target} is a folder.", hint="Give the name of a file.")
    if target.exists() and target.samefile(source):
        raise DataError(f"{source} is both input and output, and its own rows would be lost.")


def read_columns(source: Path) -> list[str]:
    """The columns of a file; of .jsonl, whose rows may differ, those of the first row.

    Raises:
        DataError: the file cannot be read, holds no rows, or names a column twice.
    """
    first_row = next(iter(stream_file(source)), None)
    if first_row is None:
        raise DataError(f"{source} holds no rows.")
    columns = list(first_row)
    if source.suffix in _DELIMITERS:
        columns = _header(source)
    if duplicates := [column for column in columns if columns.count(column) > 1]:
        raise DataError(f"{source} has two columns {duplicates[0]!r}, and only one would be kept.", hint="Rename one.")
    return columns


def added_columns(suffix: str, labels: Sequence[str]) -> list[str]:
    """The names of the columns that a format gets beside its own."""
    probability_columns = [f"probability_{label}" for label in labels]
    return [PREDICTION, PROBABILITIES] if suffix == ".jsonl" else [PREDICTION, *probability_columns]


def write_predictions(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    """Write the rows of `source` to `target` in their order, each with its answer.

    Args:
        source: a .jsonl, .csv, .tsv or .parquet file; its ending says how `target` is written.
        target: the file to write; whoever calls sees to it that no reader sees half of it.
        predictions: one for each row.
        labels: the classes, in the order of each prediction's probabilities.
    """
    _WRITERS[source.suffix](source, target, predictions, labels)


def _header(source: Path) -> list[str]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file, delimiter=_DELIMITERS[source.suffix], strict=True))


def _write_jsonl(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    with target.open("wb") as file:
        for row, prediction in zip(stream_file(source), predictions, strict=True):
            probabilities = dict(zip(labels, prediction.probabilities, strict=True))
            file.write(_json_line(row | {PREDICTION: prediction.label, PROBABILITIES: probabilities}))


def _json_line(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a character in a column that nobody asked about stays an escape
        return json.dumps(row).encode() + b"\n"


def _write_delimited(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=_DELIMITERS[source.suffix], lineterminator="\n")
        writer.writerow([*_header(source), *added_columns(source.suffix, labels)])
        for row, prediction in zip(stream_file(source), predictions, strict=True):
            writer.writerow([*row.values(), prediction.label, *prediction.probabilities])


def _write_parquet(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source) as file:
        schema = file.schema_arrow.append(pyarrow.field(PREDICTION, pyarrow.string()))
        for column in added_columns(source.suffix, labels)[1:]:
            schema = schema.append(pyarrow.field(column, pyarrow.float64()))
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                chunk = list(islice(predictions, batch.num_rows))
                new_columns: list[list[Any]] = [[prediction.label for prediction in chunk]]
                new_columns += [[prediction.probabilities[i] for prediction in chunk] for i in range(len(labels))]
                arrays = [
                    pyarrow.array(values, schema.types[len(batch.columns) + i]) for i, values in enumerate(new_columns)
                ]
                writer.write_batch(pyarrow.record_batch([*batch.columns, *arrays], schema=schema))


_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_WRITERS: dict[str, Callable[[Path, Path, Iterator[Prediction], Sequence[str]], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_delimited,
    ".tsv": _write_delimited,
    ".parquet": _write_parquet,
}
