"""The reader of local files in any supported format, one row at a time."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from toolkit.data.columns import Row
from toolkit.data.compression import file_suffix
from toolkit.data.delimited import DEFAULT_DELIMITERS, read_delimited
from toolkit.data.dialect import detect_dialect
from toolkit.data.json_files import DEPTH_HINT, read_json, read_jsonl
from toolkit.data.parquet_files import read_parquet
from toolkit.errors import DataError
from toolkit.recipe.data_paths import LOCAL_SUFFIXES
from toolkit.recipe.data_section import FormatSection

logger = logging.getLogger(__name__)

DETECTED = FormatSection()
"""A format of which every part is detected."""

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"} | dict.fromkeys(
    (".tsv", ".tab", ".txt"), "tsv"
)
"""The kind of file for each extension."""

_KEYS = {"jsonl": {"names", "encoding"}, "json": {"names", "encoding", "records"}, "parquet": set[str]()}
_DELIMITED_KEYS = {"delimiter", "quoting", "header", "names", "encoding"}


def file_kind(path: Path) -> str:
    """Return the kind of a local file: jsonl, json, csv, tsv or parquet.

    Raises:
        DataError: If its extension is not supported.
    """
    kind = KINDS.get(file_suffix(path))
    if kind is None:
        raise DataError(
            f"{path} is not a data file: its name does not end in one of {' '.join(LOCAL_SUFFIXES)}.",
            hint="Convert it to one of these formats, with a column for each text and for the label.",
        )
    return kind


def stream_file(path: Path, format: FormatSection = DETECTED, columns: Collection[str] = ()) -> Iterator[Row]:
    """Yield the rows of a local file one by one.

    Every format is streamed except JSON documents, which are read into memory as a whole.

    Args:
        path: The file.
        format: The parts of its format that cannot be detected. Parts that its kind of file does not have are ignored.
        columns: The columns that the recipe needs. A header that has all of them confirms a delimiter.

    Raises:
        DataError: If the file is missing, if a part of its format is neither given nor certain, or when iteration
            reaches a row that cannot be read.
    """
    check_file_exists(path)
    kind = file_kind(path)
    try:
        if kind == "jsonl":
            yield from read_jsonl(path, format)
        elif kind == "json":
            yield from read_json(path, format)
        elif kind == "parquet":
            yield from read_parquet(path)
        else:
            yield from read_delimited(path, complete_format(path, format, columns), columns)
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply.", hint=DEPTH_HINT) from error


def complete_format(path: Path, format: FormatSection, columns: Collection[str] = ()) -> FormatSection:
    """Return the format of a delimited file with every part set, and that of any other file unchanged.

    Raises:
        DataError: See `stream_file`.
    """
    suffix = file_suffix(path)
    return detect_dialect(path, suffix, format, columns) if suffix in DEFAULT_DELIMITERS else format


def log_detection(path: Path, given: FormatSection, found: FormatSection) -> None:
    """Log the parts of a file's format that were detected and differ from the usual ones."""
    default = DEFAULT_DELIMITERS.get(file_suffix(path))
    parts = [
        f"delimiter {found.delimiter!r}" if found.delimiter not in (given.delimiter, default) else "",
        "quotation marks are ordinary characters" if found.quoting == "none" and given.quoting is None else "",
        f"encoding {found.encoding}" if given.encoding is None and found.encoding in ("utf-16", "utf-32") else "",
    ]
    if detected := [part for part in parts if part]:
        logger.info("format      %s: %s", path, ", ".join(detected))


def check_format(path: Path, format: FormatSection) -> None:
    """Check that a file is of a kind whose format has the given parts.

    Raises:
        DataError: If a part has no effect on this kind of file. The message names the first one.
    """
    kind = file_kind(path)
    given = [key for key in FormatSection.model_fields if getattr(format, key) != getattr(DETECTED, key)]
    if unknown := [key for key in given if key not in _KEYS.get(kind, _DELIMITED_KEYS)]:
        raise DataError(
            f"{path}: format.{unknown[0]} has no effect on a file of this type.",
            hint=f"Remove format.{unknown[0]} of the source.",
        )


def check_file_exists(path: Path) -> None:
    """Check that a local data file exists.

    Raises:
        DataError: If it is missing, or is a folder.
    """
    if not path.is_file():
        reason = f"{path} is not a file" if path.exists() else f"Data file not found: {path}"
        raise DataError(f"{reason}.", hint="Check the path. Relative paths start from the working directory.")
