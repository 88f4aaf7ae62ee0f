"""Readers for the Hugging Face Hub, local files and the embedded dataset, all of which return rows as dictionaries."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.embedded import nli_fr
from toolkit.errors import DataError, first_line
from toolkit.recipe.loading import LOCAL_SUFFIXES, data_suffix, resolve_data_path
from toolkit.recipe.schema import Source

Row = dict[str, Any]
EMBEDDED = "embedded:nli-fr"
_FORMATS = " ".join(LOCAL_SUFFIXES)
_UNSUPPORTED_SUFFIXES = (
    ".txt", ".text", ".md", ".ndjson", ".jsonlines", ".json5", ".yaml", ".yml", ".xml", ".html", ".tab", ".dat",
    ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".orc", ".avro", ".h5", ".npy", ".npz", ".pkl", ".pickle", ".rds",
    ".db", ".sqlite", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z",
)  # fmt: skip
"""Extensions of files that hold rows but are not read. A path with one of them is not a dataset on the Hub."""
_QUOTE_HINT = "This is usually a stray quotation mark. Inside a quoted field, write it twice."
_DEPTH_HINT = "A row is one object whose values are strings."
_MAX_DEPTH = 100
_PARQUET_BATCH_ROWS = 1024  # rows in memory at once


def read_rows(source: Source) -> tuple[list[Row], list[str]]:
    """Read a source.

    Returns:
        The rows in the order of the source, cut to `limit`, and the names of their columns.

    Raises:
        DataError: If the source is missing, cannot be read or has no rows.
    """
    if source.path.startswith("embedded:"):
        rows = _read_embedded(source)
    elif data_suffix(source.path):
        rows = list(stream_file(Path(source.path)))
    else:
        rows = _read_hub(source)
    rows = rows[: source.limit]
    if not rows:
        raise DataError(f"{describe(source)} contains no rows.", hint="Use data with at least one row.")
    # JSON rows may have different keys. The columns are all keys, in the order of their first occurrence.
    return rows, list(dict.fromkeys(column for row in rows for column in row))


def parse_data(data: str) -> Source:
    """Parse the path of a file or `embedded:nli-fr:SPLIT` into a source."""
    if data.startswith(f"{EMBEDDED}:"):
        return Source(path=EMBEDDED, split=data.removeprefix(f"{EMBEDDED}:"))
    if not data_suffix(data) and not data.startswith("embedded:"):
        raise DataError(
            f"The data {data!r} is neither a file in one of the formats {_FORMATS} nor {EMBEDDED}:SPLIT.",
            hint='A dataset on the Hub is set in the recipe, e.g. overrides={"data.eval.path": "facebook/xnli"}.',
        )
    return Source(path=resolve_data_path(data))


def check_files_exist(*sources: Source) -> None:
    """Check that the local files among the sources exist, and that the others can be datasets on the Hub.

    Nothing is read, so that a wrong path is reported before the imports that take seconds.

    Raises:
        DataError: If a file is missing or has an unsupported format, or a dataset lacks its split. The message names
            the first one.
    """
    for source in sources:
        if data_suffix(source.path):
            _check_file_exists(Path(source.path))
        elif not source.path.startswith("embedded:"):
            _check_dataset(source)


def _check_file_exists(path: Path) -> None:
    if not path.is_file():
        reason = f"{path} is not a file" if path.exists() else f"Data file not found: {path}"
        raise DataError(f"{reason}.", hint="Check the path. Relative paths start from the working directory.")


def describe(source: Source) -> str:
    """Return a short name of a source, for messages and run.json."""
    if data_suffix(source.path):
        return source.path
    return ":".join(component for component in (source.path, source.name, source.split) if component)


def slug(source: Source) -> str:
    """Return the part of a folder name that identifies a source.

    For a file, it consists of the parent folder and the stem, because many datasets call their files test.jsonl. For
    other sources, it consists of path, configuration and split.
    """
    if data_suffix(source.path):
        path = Path(source.path)
        return "-".join(component for component in (path.parent.name, path.stem) if component)
    return describe(source).removeprefix("embedded:").replace(":", "-").replace("/", "-")


def _read_embedded(source: Source) -> list[Row]:
    if source.path != EMBEDDED:
        raise DataError(f"There is no embedded dataset {source.path!r}.", hint=f"Use {EMBEDDED}.")
    return nli_fr.load_split(source.split or "train")


def _read_hub(source: Source) -> list[Row]:
    split = _check_dataset(source)
    from toolkit.data.hub import load_hub_rows  # `datasets` takes seconds to import

    return load_hub_rows(source.path, source.name, split)


def _check_dataset(source: Source) -> str:
    """Return the split of a dataset on the Hub.

    Raises:
        DataError: If the path must be that of a file or folder, or there is no split.
    """
    path = source.path
    # An id on the Hub is NAME or OWNER/NAME. It may contain a dot, so only known extensions make it a file.
    is_path = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
    if is_path or path.lower().endswith(_UNSUPPORTED_SUFFIXES) or Path(path).exists():
        raise DataError(
            f"{path} is not a data file: its name does not end in one of {_FORMATS}.",
            hint="Convert it to one of these formats, with a column for each text and for the label.",
        )
    if source.split is None:
        raise DataError(
            f"The Hub dataset {path} needs a split.",
            hint=f"Set data.train.split and data.eval.split. If it is a local file, its name must end in one of "
            f"{_FORMATS}.",
        )
    return source.split


def stream_file(path: Path) -> Iterator[Row]:
    """Yield the rows of a local file one by one.

    Every format is streamed except `.json`, which is read into memory as a whole.

    Raises:
        DataError: If the file is missing, or when iteration reaches a row that cannot be read.
    """
    _check_file_exists(path)
    try:
        yield from _READERS[data_suffix(path)](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Convert it to UTF-8.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply.", hint=_DEPTH_HINT) from error


def _open_text(path: Path) -> Any:
    # Excel starts a UTF-8 file with a byte-order mark. Read as plain utf-8, it would become part of the first column's
    # name. `newline=""` leaves line breaks to the csv module, which keeps those inside quoted fields.
    return path.open(encoding="utf-8-sig", newline="")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parse_json_row(line, f"{path}, line {number}")


def _parse_json_row(text: str, location: str) -> Row:
    try:
        row = json.loads(text, object_pairs_hook=_object_with_unique_keys)
    except ValueError as error:
        raise DataError(f"{location} is not JSON: {error}.", hint="Write one JSON object per line.") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{location} is a {type(row).__name__}, not an object with columns.", hint='Write {"premise": ..., ...}.'
        )
    # Python writes fewer levels than it reads, so such a row would fail after all rows were scored. Counting brackets
    # is fast, and only a row with many of them can be nested deeply.
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(row):
        raise DataError(f"{location} is nested too deeply.", hint=_DEPTH_HINT)
    return row


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested in more than `_MAX_DEPTH` levels."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, (dict, list)) for item in level)


def _object_with_unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """Build a JSON object, and raise if a key repeats, where Python would silently keep the last value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return row


def _read_json(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        try:
            rows = json.load(file, object_pairs_hook=_object_with_unique_keys)
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}.", hint="Is it JSON Lines? Then name it .jsonl.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects.", hint='Write [{"premise": ..., ...}, ...].')
    yield from rows


def _read_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    # The csv module rejects fields above 131,072 characters by default. The limit is a C long, which has 32 bits on
    # some platforms.
    csv.field_size_limit(2**31 - 1)
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next((fields for fields in reader if fields), [])  # blank lines are skipped, here and below
            _check_unique_columns(path, header)
            for number, fields in enumerate(reader, 1):
                if not fields:
                    continue
                # A field that opens with a stray quotation mark swallows the text up to the next one, and the row can
                # still have the right number of fields. TSV fields hold no tabs or line breaks of their own, so there
                # such a field is an error. In CSV a line break inside quotes is ordinary text.
                has_swallowed_text = delimiter == "\t" and any("\n" in field or "\t" in field for field in fields)
                if len(fields) != len(header) or has_swallowed_text:
                    raise DataError(
                        f"{path}, row {number} (line {reader.line_num}) has {len(fields)} fields for {len(header)} "
                        "columns"
                        + (", and one of them contains a tab or a line break." if has_swallowed_text else "."),
                        hint=_QUOTE_HINT,
                    )
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num} cannot be read: {error}.",
                hint=_QUOTE_HINT,
            ) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_unique_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                yield from batch.to_pylist()
    except DataError:
        raise
    except Exception as error:  # pyarrow has no common error for damaged files: OSError, ArrowInvalid, ValueError, ...
        raise DataError(
            f"{path} is not a readable Parquet file: {first_line(error).rstrip('.')}.",
            hint="Create the file again, or copy it again.",
        ) from error


def _check_unique_columns(path: Path, columns: Sequence[str]) -> None:
    """Check that no two columns share a name, because a row would silently keep only the last of them.

    Columns without a name can repeat, because nothing refers to them.
    """
    if duplicates := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise DataError(f"{path} has two columns named {duplicates[0]!r}.", hint="Rename one of them.")


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".parquet": _read_parquet,
}
