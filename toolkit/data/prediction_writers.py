"""Writers that add predictions to the rows of a file and keep its format, with few rows in memory at a time."""

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
_ROW_GROUP_ROWS = 10_000  # rows of a Parquet row group


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decoded label of a row, and the probability of each label in the order of task.labels."""

    label: str
    probabilities: list[float]

    def table(self, labels: Sequence[str]) -> str:
        """Return the label and, below it, the probability of every label as text for a terminal."""
        width = max(map(len, labels))
        label_probabilities = zip(labels, self.probabilities, strict=True)
        return "\n".join(
            [self.label, *(f"{label:<{width}}  {probability:.6f}" for label, probability in label_probabilities)]
        )


def check_formats(source: Path, target: Path) -> None:
    """Check that predictions for the rows of `source` can be written to `target`.

    Raises:
        DataError: If `source` is missing, a format is not supported or differs, or `target` cannot be a new file.
    """
    if not source.is_file():
        raise DataError(f"Data file not found: {source}.")
    if source.suffix not in _WRITERS:
        raise DataError(f"{source} does not end in one of {' '.join(_WRITERS)}.", hint="Convert it, e.g. to .jsonl.")
    if target.suffix != source.suffix:
        raise DataError(
            f"The output {target} must have the same format as the input {source}.",
            hint=f"Use a name that ends in {source.suffix}.",
        )
    if target.is_dir():
        raise DataError(f"The output {target} is a folder.", hint="Give a file name.")
    if target.exists() and target.samefile(source):
        raise DataError(f"{source} is both input and output, so its rows would be overwritten.")


def read_columns(source: Path) -> list[str]:
    """Return the names of a file's columns.

    In JSON Lines, where rows may have different keys, these are the keys of the first row.

    Raises:
        DataError: If the file cannot be read, contains no rows or has two columns with the same name.
    """
    first_row = next(iter(stream_file(source)), None)
    if first_row is None:
        raise DataError(f"{source} contains no rows.")
    columns = list(first_row)
    if source.suffix in _DELIMITERS:  # a row is a dictionary, in which two columns without a name have become one
        columns = _header(source)
    if duplicates := [column for column in columns if columns.count(column) > 1]:
        raise DataError(f"{source} has two columns named {duplicates[0]!r}.", hint="Rename one of them.")
    return columns


def added_columns(suffix: str, labels: Sequence[str]) -> list[str]:
    """Return the names of the columns that a file of this format gets in addition to its own."""
    probability_columns = [f"probability_{label}" for label in labels]
    return [PREDICTION, PROBABILITIES] if suffix == ".jsonl" else [PREDICTION, *probability_columns]


def write_predictions(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    """Write the rows of `source` to `target`, in the same order, each with its prediction.

    Args:
        source: A .jsonl, .csv, .tsv or .parquet file. Its suffix also determines the format of `target`.
        target: The file to write. The caller must keep readers away from it until it is complete.
        predictions: One prediction per row.
        labels: The classes, in the order of the probabilities of each prediction.
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
    except UnicodeEncodeError:  # a lone surrogate in a column that is only copied: written as the escape that it was
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
            for batch in file.iter_batches(batch_size=_ROW_GROUP_ROWS):
                batch_predictions = list(islice(predictions, batch.num_rows))
                new_columns: list[list[Any]] = [[prediction.label for prediction in batch_predictions]]
                new_columns += [
                    [prediction.probabilities[i] for prediction in batch_predictions] for i in range(len(labels))
                ]
                arrays = [
                    pyarrow.array(values, schema.types[len(batch.columns) + i]) for i, values in enumerate(new_columns)
                ]
                # The file's own columns are passed on as Arrow arrays, so no type or value changes.
                writer.write_batch(pyarrow.record_batch([*batch.columns, *arrays], schema=schema))


_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_WRITERS: dict[str, Callable[[Path, Path, Iterator[Prediction], Sequence[str]], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_delimited,
    ".tsv": _write_delimited,
    ".parquet": _write_parquet,
}
