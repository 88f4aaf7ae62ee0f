"""Writers that add predictions to the rows of a file and keep its format, with few rows in memory at a time."""

import csv
import gzip
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from toolkit.data.columns import Row
from toolkit.data.compression import open_seekable
from toolkit.data.file_reader import KINDS, file_kind
from toolkit.data.parquet_files import open_parquet
from toolkit.data.prediction_input import PredictionInput
from toolkit.errors import DataError
from toolkit.recipe.data_paths import LOCAL_SUFFIXES, data_suffix, split_suffixes

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
    if not data_suffix(source):
        raise DataError(
            f"{source} does not end in one of {' '.join(LOCAL_SUFFIXES)}.", hint="Convert it, e.g. to .jsonl."
        )
    kind = file_kind(source)
    suffix, compression = split_suffixes(target)
    suffixes = [name for name in LOCAL_SUFFIXES if KINDS[name] == kind]
    if KINDS.get(suffix) != kind:
        raise DataError(
            f"The output {target} must have the same format as the input {source}.",
            hint=f"Use a name that ends in {' or '.join(suffixes)}.",
        )
    if compression == ".zip":
        raise DataError(
            f"The output {target} cannot be a zip archive.", hint=f"Use a name that ends in {suffix} or {suffix}.gz."
        )
    if target.is_dir():
        raise DataError(f"The output {target} is a folder.", hint="Give a file name.")
    if target.exists() and target.samefile(source):
        raise DataError(f"{source} is both input and output, so its rows would be overwritten.")


def check_encoding(source: PredictionInput, labels: Sequence[str]) -> None:
    """Check that the labels can be written in the encoding of a delimited file, which the output keeps.

    Raises:
        DataError: If it lacks a character of a label.
    """
    encoding = source.format.encoding or "utf-8"
    for label in labels if source.is_delimited else ():
        try:
            label.encode(encoding)
        except UnicodeError as error:
            raise DataError(
                f"{source.path} is encoded in {encoding}, which cannot write the label {label!r}.",
                hint="Convert the file to UTF-8.",
            ) from error


def added_columns(kind: str, labels: Sequence[str]) -> list[str]:
    """Return the names of the columns that a file of this kind gets in addition to its own, in their order."""
    probability_columns = [f"probability_{label}" for label in labels]
    return [PREDICTION, PROBABILITIES] if kind in ("jsonl", "json") else [PREDICTION, *probability_columns]


def write_predictions(
    source: PredictionInput, target: Path, predictions: Iterator[Prediction], labels: Sequence[str], compress: bool
) -> None:
    """Write the rows of `source` to `target`, in the same order, each with its prediction.

    A delimited file keeps its delimiter, quoting and encoding, and has a header if `source` has one or is a list of
    texts. Rows of JSON that are lists become objects.

    Args:
        source: The rows. Its kind also determines the format of `target`.
        target: The file to write. The caller must keep readers away from it until it is complete.
        predictions: One prediction per row.
        labels: The classes, in the order of the probabilities of each prediction.
        compress: Whether to compress `target` with gzip.
    """
    writers = {"jsonl": _write_json, "json": _write_json, "parquet": _write_parquet}
    with target.open("wb") as file:
        # The time and the name of the file are left out, so that the same predictions give the same bytes.
        stream = gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) if compress else nullcontext(file)
        with stream as output:
            writers.get(source.kind, _write_delimited)(source, cast(BinaryIO, output), predictions, labels)


def _write_json(
    source: PredictionInput, file: BinaryIO, predictions: Iterator[Prediction], labels: Sequence[str]
) -> None:
    changed_rows, is_list = 0, source.kind == "json"
    separator = b"[\n" if is_list else b""
    for row, prediction in zip(source.rows(), predictions, strict=True):
        probabilities = dict(zip(labels, prediction.probabilities, strict=True))
        row |= {PREDICTION: prediction.label, PROBABILITIES: probabilities}
        try:
            line = _encode_json(row)
        except ValueError:  # NaN or an infinity, which Python reads and writes but JSON does not have
            line = _encode_json(_finite_or_null(row))
            changed_rows += 1
        file.write(separator + line)
        separator = b",\n" if is_list else b"\n"
    file.write(b"\n]\n" if is_list else b"\n")
    if changed_rows:
        logger.warning(
            "WARNING: %s has NaN or infinite numbers in %d rows. They are null in the output, because JSON does not "
            "have them.", source.path, changed_rows,
        )  # fmt: skip


def _encode_json(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate in a column that is only copied: written as the escape that it was
        return json.dumps(row, allow_nan=False).encode()


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite_or_null(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_delimited(
    source: PredictionInput, file: BinaryIO, predictions: Iterator[Prediction], labels: Sequence[str]
) -> None:
    added = added_columns(source.kind, labels)
    delimiter = source.format.delimiter or ","
    encoding = source.format.encoding or "utf-8"
    # Where quotation marks are ordinary, fields cannot contain the delimiter, but a label could.
    is_plain = source.format.quoting == "none" and not source.is_lines and not any(delimiter in name for name in added)
    with TextIOWrapper(file, "utf-8" if encoding == "utf-8-sig" else encoding, newline="") as text:
        standard = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        # Python before 3.13 does not quote a field with a carriage return, which ends the row when it is read.
        quoted = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write_row(fields: Sequence[Any]) -> None:
            if is_plain:
                text.write(delimiter.join(map(str, fields)) + "\n")
                return
            has_carriage_return = any(isinstance(field, str) and "\r" in field for field in fields)
            (quoted if has_carriage_return else standard).writerow(fields)

        if source.format.header or source.is_lines:
            write_row([*source.read_names(), *added])
        for row, prediction in zip(source.rows(), predictions, strict=True):
            write_row([*row.values(), prediction.label, *prediction.probabilities])


def _write_parquet(
    source: PredictionInput, file: BinaryIO, predictions: Iterator[Prediction], labels: Sequence[str]
) -> None:
    import pyarrow
    import pyarrow.parquet

    with open_seekable(source.path) as stream, open_parquet(stream) as rows:
        schema = rows.schema_arrow.append(pyarrow.field(PREDICTION, pyarrow.string()))
        for column in added_columns(source.kind, labels)[1:]:
            schema = schema.append(pyarrow.field(column, pyarrow.float64()))
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for batch in rows.iter_batches(batch_size=_ROW_GROUP_ROWS):
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
