"""Columns of rows: nested columns, and headers that are really the first row of the data."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from toolkit.recipe.labels import normalize_label

Row = dict[str, Any]

_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_SENTENCE_WORDS, _SENTENCE_CHARACTERS = 5, 60
_ABSENT = object()


def get_column(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column in a row, or None if the row does not have it.

    A column with exactly this name takes precedence. Otherwise each dot leads into an object: `annotation.choice` is
    the value of `choice` in the object `annotation`.
    """
    value = _find(row, column)
    return None if value is _ABSENT else value


def has_column(rows: Iterable[Mapping[str, Any]], column: str) -> bool:
    """Return whether any of the rows has the column, see `get_column`."""
    return any(_find(row, column) is not _ABSENT for row in rows)


def _find(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    position = column.find(".")
    while position >= 0:
        child = row.get(column[:position])
        if isinstance(child, Mapping) and (value := _find(child, column[position + 1 :])) is not _ABSENT:
            return value
        position = column.find(".", position + 1)
    return _ABSENT


def looks_like_data(header: Sequence[str], labels: Collection[str] = ()) -> bool:
    """Return whether the names of columns look like a row of data: numbers, sentences or labels.

    Args:
        header: The names, which are the first line of a file.
        labels: The labels of the task and the keys of its label map.
    """
    named = [name for name in header if name]
    if named == [str(number) for number in range(len(named))]:
        return False  # pandas names columns without a name 0, 1, 2, ...
    known = {normalize_label(label) for label in labels}
    return any(is_value(name) or (name.strip() and normalize_label(name) in known) for name in header)


def is_value(name: str) -> bool:
    """Return whether the name of a column is a number or a sentence, as a value would be."""
    words = len(name.split())
    return bool(
        _NUMBER.fullmatch(name.strip())
        or words >= _SENTENCE_WORDS
        or len(name) > _SENTENCE_CHARACTERS
        or (words > 2 and name.rstrip().endswith((".", "!", "?")))
    )
