"""Readers of JSON Lines and of JSON documents."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from toolkit.data.columns import Row, get_column
from toolkit.data.messages import check_unique_columns, key_hint, list_names, shorten_line
from toolkit.data.text_encoding import detect_encoding, open_text
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection

DEPTH_HINT = "A row is one object whose values are strings."
_MAX_DEPTH = 100
_OBJECTS_HINT = 'Write [{"text": ..., "label": ...}, ...].'
_LINES_HINT = "Write one JSON object per line."


def read_jsonl(path: Path, given: FormatSection) -> Iterator[Row]:
    """Yield the rows of a JSON Lines file."""
    encoding = detect_encoding(path, given.encoding)
    names = _row_names(path, given)
    is_first = True
    with open_text(path, encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            location = f"{path}, line {number}"
            try:
                value = _parse(line)
            except ValueError as error:
                if is_first and _is_document(path, encoding):
                    raise _document_error(path) from error
                raise DataError(f"{location} is not JSON: {error}.", hint=_LINES_HINT) from error
            if is_first and isinstance(value, list) and value and isinstance(value[0], (dict, list)):
                raise _document_error(path)
            is_first = False
            yield _make_row(value, names, location, line.count("[") + line.count("{"))


def read_json(path: Path, given: FormatSection) -> Iterator[Row]:
    """Yield the rows of a JSON document: a list, or the list under the key `records` of an object.

    The document is read into memory as a whole.
    """
    encoding = detect_encoding(path, given.encoding)
    names = _row_names(path, given)
    with open_text(path, encoding) as file:
        text = file.read()
    try:
        document = _parse(text)
    except ValueError as error:
        if _is_json(first := text.lstrip().partition("\n")[0]):
            raise DataError(
                f"{path} is JSON Lines, not one JSON document: its first line is complete: {shorten_line(first)}.",
                hint="Rename it so that it ends in .jsonl.",
            ) from error
        raise DataError(f"{path} is not JSON: {error}.", hint="Write one JSON document, a list of objects.") from error
    depth = text.count("[") + text.count("{")
    del text  # as large as the file
    for number, row in enumerate(_find_records(path, document, given.records), 1):
        yield _make_row(row, names, f"{path}, row {number}", depth)


def _row_names(path: Path, given: FormatSection) -> tuple[str, ...] | None:
    check_unique_columns(path, given.names or ())
    return given.names


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object_with_unique_keys)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), (dict, list))
    except (ValueError, RecursionError):
        return False


def _is_document(path: Path, encoding: str) -> bool:
    """Return whether a whole file is one JSON value, which spans several lines."""
    with open_text(path, encoding) as file:
        return _is_json(file.read())


def _document_error(path: Path) -> DataError:
    return DataError(
        f"{path} is one JSON document, not JSON Lines: a row spans several lines, or all rows are in one list.",
        hint="Rename it so that it ends in .json.",
    )


def _make_row(value: Any, names: tuple[str, ...] | None, location: str, brackets: int) -> Row:
    if isinstance(value, list) and names is not None:
        if len(value) != len(names):
            raise DataError(
                f"{location} has {len(value)} values, but format.names has {len(names)} names: "
                f"{shorten_line(json.dumps(value, ensure_ascii=False))}.",
                hint=f"Give one name for each value in {key_hint('names')}.",
            )
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        hint = 'Write an object, e.g. {"text": ..., "label": ...}.'
        if isinstance(value, list):
            hint += f" For rows that are lists, name their values in {key_hint('names')}."
        raise DataError(f"{location} is a {type(value).__name__}, not an object with columns.", hint=hint)
    # Python writes fewer levels than it reads, so such a row would fail after all rows were scored. Counting brackets
    # is fast, and only a row with many of them can be nested deeply.
    if brackets > _MAX_DEPTH and _is_deep(value):
        raise DataError(f"{location} is nested too deeply.", hint=DEPTH_HINT)
    return value


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested in more than `_MAX_DEPTH` levels."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        nested = [item for item in level if isinstance(item, (dict, list))]
        if not nested:
            return False
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, (dict, list)) for item in level)


def _object_with_unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """Build a JSON object, and raise if a key repeats, where Python would silently keep the last value."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return row


def _find_records(path: Path, document: Any, records: str | None) -> list[Any]:
    if isinstance(document, list):
        if records is not None:
            raise DataError(
                f"{path} is a list, so format.records has no effect.", hint=f"Remove {key_hint('records')}."
            )
        return document
    if not isinstance(document, dict):
        raise DataError(
            f"{path} is not a list of objects, but a {type(document).__name__}.",
            hint=_OBJECTS_HINT,
        )
    keys = [key for key, value in document.items() if _is_list_of_rows(value)]
    if records is not None:
        rows = get_column(document, records)
        if isinstance(rows, list):
            return rows
        raise DataError(
            f"{path} has no list under the key {records!r}; its keys are {_list_keys(document)}.",
            hint=f"Set {key_hint('records')}" + (f" to {' or '.join(map(repr, keys))}." if keys else "."),
        )
    if keys:
        raise DataError(
            f"{path} is not a list of objects, but an object with rows under the keys {_list_keys(keys)}.",
            hint=f"Set {key_hint('records')} to the key of the rows, e.g. to {keys[0]}.",
        )
    if document and _is_column_oriented(document):
        target = f"{path.name.partition('.')[0]}.jsonl"
        code = f"pandas.read_json({path.name!r}).to_json({target!r}, orient='records', lines=True, force_ascii=False)"
        raise DataError(
            f"{path} is not a list of objects: it has one object or list per column ({_list_keys(document)}).",
            hint=f'Convert it: python -c "import pandas; {code}"',
        )
    raise DataError(
        f"{path} is not a list of objects, but an object with the keys {_list_keys(document)}.",
        hint=_OBJECTS_HINT,
    )


def _list_keys(keys: Iterable[str]) -> str:
    return list_names(map(repr, keys)) or "none"


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, (dict, list)) for row in value)


def _is_column_oriented(document: dict[str, Any]) -> bool:
    """Return whether all columns have the same rows, as objects from row to value or as lists of values."""
    columns = list(document.values())
    if all(isinstance(column, dict) for column in columns):
        return all(column.keys() == columns[0].keys() for column in columns)
    return all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)
