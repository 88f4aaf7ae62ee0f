"""Writers that add predictions to the rows of a file and keep its format, with few rows in memory at a time."""

import csv
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit.data.sources import Row, stream_file
from toolkit.errors import DataError
from toolkit.recipe.loading import data_suffix

logger = logging.getLogger(__name__)

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
    suffix = data_suffix(source)
    if suffix not in _WRITERS:
        raise DataError(f"{source} does not end in one of {' '.join(_WRITERS)}.", hint="Convert it, e.g. to .jsonl.")
    if data_suffix(target) != suffix:
        raise DataError(
            f"The output {target} must have the same format as the input {source}.",
            hint=f"Use a name that ends in {suffix}.",
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
    if data_suffix(source) in _DELIMITERS:  # a row is a dictionary, in which two columns without a name have become one
        columns = _header(source)
    if duplicates := [column for column, count in Counter(columns).items() if count > 1]:
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
    _WRITERS[data_suffix(source)](source, target, predictions, labels)


def _header(source: Path) -> list[str]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_DELIMITERS[data_suffix(source)], strict=True)
        return next(fields for fields in reader if fields)


def _write_jsonl(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    changed_rows = 0
    with target.open("wb") as file:
        for row, prediction in zip(stream_file(source), predictions, strict=True):
            probabilities = dict(zip(labels, prediction.probabilities, strict=True))
            row |= {PREDICTION: prediction.label, PROBABILITIES: probabilities}
            try:
                line = _json_line(row)
            except ValueError:  # NaN or an infinity, which Python reads and writes but JSON does not have
                line = _json_line(_finite_or_null(row))
                changed_rows += 1
            file.write(line)
    if changed_rows:
        logger.warning(
            "WARNING: %s has NaN or infinite numbers in %d rows. They are null in the output, because JSON does not "
            "have them.", source, changed_rows,
        )  # fmt: skip


def _json_line(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate in a column that is only copied: written as the escape that it was
        return json.dumps(row, allow_nan=False).encode() + b"\n"


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite_or_null(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_delimited(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        delimiter = _DELIMITERS[data_suffix(source)]
        plain = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        # Python before 3.13 does not quote a field with a carriage return, which ends the row when it is read.
        quoted = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write_row(fields: Sequence[Any]) -> None:
            has_carriage_return = any(isinstance(field, str) and "\r" in field for field in fields)
            (quoted if has_carriage_return else plain).writerow(fields)

        write_row([*_header(source), *added_columns(data_suffix(source), labels)])
        for row, prediction in zip(stream_file(source), predictions, strict=True):
            write_row([*row.values(), prediction.label, *prediction.probabilities])


def _write_parquet(source: Path, target: Path, predictions: Iterator[Prediction], labels: Sequence[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source) as file:
        schema = file.schema_arrow.append(pyarrow.field(PREDICTION, pyarrow.string()))
        for column in added_columns(data_suffix(source), labels)[1:]:
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
