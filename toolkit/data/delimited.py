"""Readers of delimited text files: CSV, TSV and the like."""

import csv
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.data.columns import Row, is_value, looks_like_data
from toolkit.data.messages import check_unique_columns, key_hint, shorten_line
from toolkit.data.text_encoding import open_text
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection

DEFAULT_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
_MAX_FIELD_CHARACTERS = 2**25
"""A longer field is the rest of a file that a stray quotation mark has swallowed, and would fill the memory."""


def _shorten_fields(fields: Sequence[str], dialect: FormatSection) -> str:
    return shorten_line((dialect.delimiter or "").join(fields))


def read_line(path: Path, encoding: str, number: int) -> str:
    """Return a line of a text file by its number, counted from 1; "" if the file is shorter."""
    with open_text(path, encoding) as lines:
        return next((line for position, line in enumerate(lines, 1) if position == number), "")


def make_reader(lines: Any, delimiter: str, quoting: str) -> Any:
    """Return a csv reader of lines, in which quotation marks enclose fields (standard) or are ordinary (none)."""
    # The csv module rejects fields above 131,072 characters by default.
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    if quoting == "none":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, quotechar=None, strict=True)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def read_header(path: Path, dialect: FormatSection) -> list[str]:
    """Return the names of a file's columns.

    Args:
        path: The file.
        dialect: Its format, with every part set.

    Raises:
        DataError: If two columns share a name, or the names do not fit the first line.
    """
    fields = _first_fields(path, dialect)
    if dialect.header:
        check_unique_columns(path, fields)
        return fields
    names = list(dialect.names or ())
    if fields and {field.strip() for field in fields} <= {name.strip() for name in names}:
        raise DataError(
            f"{path}: format.header is false, but the first line has the names of the columns: "
            f"{_shorten_fields(fields, dialect)}.",
            hint=f"Set {key_hint('header')} to true, without format.names.",
        )
    if fields and len(fields) != len(names):
        raise DataError(
            f"{path}: the first line has {len(fields)} fields, but format.names has {len(names)} names: "
            f"{_shorten_fields(fields, dialect)}.",
            hint=f"Give one name for each field in {key_hint('names')}, or set {key_hint('delimiter')}.",
        )
    check_unique_columns(path, names)
    return names


def _first_fields(path: Path, dialect: FormatSection) -> list[str]:
    with open_text(path, dialect.encoding or "utf-8") as file:
        reader = make_reader(file, dialect.delimiter or ",", dialect.quoting or "standard")
        try:
            return next((fields for fields in reader if fields), [])
        except csv.Error as error:
            raise _describe_csv_error(path, dialect, reader.line_num, error) from error


def read_delimited(path: Path, dialect: FormatSection, columns: Collection[str] = ()) -> Iterator[Row]:
    """Yield the rows of a delimited file.

    Args:
        path: The file.
        dialect: Its format, with every part set.
        columns: The columns that the recipe names. If a later row has one of these names as the value of its column,
            the header is really the first row of the data.
    """
    header = read_header(path, dialect)
    is_suspicious = dialect.header and any(is_value(column) for column in columns if column in header)
    named = [column for column in columns if column in header] if is_suspicious else []
    for row in read_records(path, dialect, header):
        if any(row[column] == column for column in named) and looks_like_data(header):
            raise _first_row_error(path, dialect, header)
        yield row


def read_records(path: Path, dialect: FormatSection, header: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a delimited file whose header is known.

    Raises:
        DataError: If a row does not have one field for each column.
    """
    with open_text(path, dialect.encoding or "utf-8") as file:
        reader = make_reader(file, dialect.delimiter or ",", dialect.quoting or "standard")
        is_header, number = dialect.header, 0
        try:
            for fields in reader:
                if not fields:
                    number += not is_header  # blank lines are skipped, but counted after the header
                    continue
                if is_header:
                    is_header = False
                    continue
                number += 1
                if len(fields) != len(header):
                    raise DataError(
                        f"{path}, row {number} (line {reader.line_num}) has {len(fields)} fields for {len(header)} "
                        f"columns: {_shorten_fields(fields, dialect)}.",
                        hint=_ragged_hint(dialect),
                    )
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise _describe_csv_error(path, dialect, reader.line_num, error) from error


def _ragged_hint(dialect: FormatSection) -> str:
    if dialect.quoting == "none":
        return f"Complete the line. If fields are in quotation marks, set {key_hint('quoting')} to standard."
    return (
        "Complete the line. The cause can also be a stray quotation mark: inside a quoted field, write it twice; if "
        f"quotation marks are ordinary characters, set {key_hint('quoting')} to none."
    )


def _describe_csv_error(path: Path, dialect: FormatSection, number: int, error: csv.Error) -> DataError:
    line = shorten_line(read_line(path, dialect.encoding or "utf-8", number))
    return DataError(f"{path}, line {number} cannot be read: {error}: {line}.", hint=_ragged_hint(dialect))


def _first_row_error(path: Path, dialect: FormatSection, fields: Sequence[str]) -> DataError:
    return DataError(
        f"{path}: its first line looks like data, not like the names of columns: {_shorten_fields(fields, dialect)}.",
        hint=header_hint(fields),
    )


def header_hint(fields: Sequence[str]) -> str:
    """Return a hint for a file whose first line is data."""
    return (
        f"Set {key_hint('header')} to false, and format.names to a list of {len(fields)} names, one for each field, "
        "e.g. format: {header: false, names: [" + ", ".join(f"column{n}" for n in range(1, len(fields) + 1)) + "]}."
    )
