"""Rows from a hub, a local file or the embedded dataset, as plain dictionaries in their own order."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.embedded import nli_fr
from toolkit.errors import DataError, first_line
from toolkit.recipe.loading import LOCAL_SUFFIXES, resolve_data_path
from toolkit.recipe.schema import Source

Row = dict[str, Any]
EMBEDDED = "embedded:nli-fr"
_PARQUET_ROWS = 1024  # in memory at once


def read_rows(source: Source) -> tuple[list[Row], list[str]]:
    """Read a source.

    Returns:
        The rows in the source's order, cut to `limit`, and the names of their columns.

    Raises:
        DataError: the source cannot be found or read.
    """
    if source.path.startswith("embedded:"):
        rows = _read_embedded(source)
    elif source.path.endswith(LOCAL_SUFFIXES):
        rows = list(stream_file(Path(source.path)))
    else:
        rows = _read_hub(source)
    rows = rows[: source.limit]
    if not rows:
        raise DataError(f"{describe(source)} holds no rows.", hint="Give a file with rows below its header.")
    return rows, list(dict.fromkeys(column for row in rows for column in row))


def parse_data(data: str) -> Source:
    """Return the source that a text names: a file, or `embedded:nli-fr:SPLIT`."""
    if data.startswith(f"{EMBEDDED}:"):
        return Source(path=EMBEDDED, split=data.removeprefix(f"{EMBEDDED}:"))
    return Source(path=resolve_data_path(data))


def check_files_exist(*sources: Source) -> None:
    """Refuse local files that are not there; a look alone, for before packages that take seconds to import.

    Raises:
        DataError: naming the first.
    """
    for source in sources:
        if source.path.endswith(LOCAL_SUFFIXES):
            _check_file_exists(Path(source.path))


def _check_file_exists(path: Path) -> None:
    if not path.is_file():
        reason = f"{path} is no file" if path.exists() else f"There is no data file {path}"
        raise DataError(f"{reason}.", hint="Give a file, with its path from the working directory.")


def describe(source: Source) -> str:
    """A source in a few words, for messages and records."""
    if source.path.endswith(LOCAL_SUFFIXES):
        return source.path
    return ":".join(component for component in (source.path, source.name, source.split) if component)


def slug(source: Source) -> str:
    """A source as part of a file name: the folder and the stem of a file, else its path, configuration and split."""
    if source.path.endswith(LOCAL_SUFFIXES):
        path = Path(source.path)
        return "-".join(component for component in (path.parent.name, path.stem) if component)
    return describe(source).removeprefix("embedded:").replace(":", "-").replace("/", "-")


def _read_embedded(source: Source) -> list[Row]:
    if source.path != EMBEDDED:
        raise DataError(f"There is no embedded dataset {source.path!r}.", hint=f"Write {EMBEDDED}.")
    return nli_fr.load_split(source.split or "train")


def _read_hub(source: Source) -> list[Row]:
    if Path(source.path).exists():
        raise DataError(
            f"{source.path} is a file or folder, but not one of {' '.join(LOCAL_SUFFIXES)}.",
            hint="Give a file with one of these endings.",
        )
    if source.split is None:
        raise DataError(
            f"The hub dataset {source.path} needs a split.", hint="Set data.train.split and data.eval.split."
        )
    from toolkit.data.hub import load_hub_rows

    return load_hub_rows(source.path, source.name, source.split)


def stream_file(path: Path) -> Iterator[Row]:
    """Yield a local file's rows one after the other; of all formats only `.json` is held in memory.

    Raises:
        DataError: the file is not there, or at the row that cannot be read.
    """
    _check_file_exists(path)
    try:
        yield from _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Convert it to UTF-8.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be rows.", hint="A row is one object with texts.") from error


def _open_text(path: Path) -> Any:
    # utf-8-sig: Excel puts a byte-order mark in front, which would become part of the first column's name.
    return path.open(encoding="utf-8-sig", newline="")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _json_row(line, f"{path}, line {number}")


def _json_row(text: str, where: str) -> Row:
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.", hint="Write one JSON object per line.") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is a {type(row).__name__}, not an object with columns.", hint='Write {"premise": ..., ...}.'
        )
    return row


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """An object of JSON; of a name that stands there twice, Python would silently keep the last value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return row


def _read_json(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        try:
            rows = json.load(file, object_pairs_hook=_object)
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}.", hint="Is it JSON Lines? Then name it .jsonl.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects.", hint='Write [{"premise": ..., ...}, ...].')
    yield from rows


def _read_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_unique_columns(path, header)
            for number, fields in enumerate(reader, 1):
                if not fields:
                    continue
                swallowed = delimiter == "\t" and any("\n" in field or "\t" in field for field in fields)
                if len(fields) != len(header) or swallowed:
                    raise DataError(
                        f"{path}, row {number} (line {reader.line_num}) has {len(fields)} fields where the header has "
                        f"{len(header)}" + (", and one of them runs over several lines." if swallowed else "."),
                        hint="A lone quotation mark does this: write it twice inside a quoted field.",
                    )
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num} cannot be read: {error}.",
                hint="A lone quotation mark does this: write it twice inside a quoted field.",
            ) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_unique_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
    except DataError:
        raise
    except Exception as error:  # a damaged file breaks pyarrow anywhere, in one of ten ways
        raise DataError(
            f"{path} is not a Parquet file that can be read: {first_line(error).rstrip('.')}.",
            hint="Write it again, or copy it again.",
        ) from error


def _check_unique_columns(path: Path, columns: Sequence[str]) -> None:
    """Two columns of one name: a row would silently keep the last."""
    if duplicates := [name for name in columns if name and columns.count(name) > 1]:
        raise DataError(f"{path} has two columns {duplicates[0]!r}, and only one would be kept.", hint="Rename one.")


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".parquet": _read_parquet,
}
