"""The detection of a delimited file's format. A part that is not certain is reported, never guessed."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from toolkit.data.columns import looks_like_data
from toolkit.data.delimited import DEFAULT_DELIMITERS, header_hint, make_reader, read_header, read_line, read_records
from toolkit.data.messages import key_hint, shorten_line
from toolkit.data.text_encoding import detect_encoding, open_text
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection

_DELIMITERS = (",", ";", "\t", "|")


def detect_dialect(path: Path, suffix: str, given: FormatSection, columns: Collection[str] = ()) -> FormatSection:
    """Return the format of a delimited file with every part set.

    Args:
        path: The file.
        suffix: The extension that determines the default delimiter.
        given: The parts that the recipe states.
        columns: The columns that the recipe needs. A header that has all of them confirms a delimiter.

    Raises:
        DataError: If a part is neither given nor certain. The message shows the line, and the hint names the key.
    """
    encoding = detect_encoding(path, given.encoding)
    default = DEFAULT_DELIMITERS[suffix]
    delimiter = given.delimiter
    if delimiter is None:
        delimiter = _detect_delimiter(path, encoding, default, columns) if given.header else default
    dialect = given.model_copy(update={"encoding": encoding, "delimiter": delimiter})
    _check_names(path, dialect)
    if given.quoting is None:
        dialect = dialect.model_copy(update={"quoting": _detect_quoting(path, dialect, columns)})
    _check_header(path, dialect, columns)
    return dialect


def _check_names(path: Path, dialect: FormatSection) -> None:
    if dialect.header and dialect.names is not None:
        raise DataError(
            f"{path}: format.names has no effect, because the first line has the names of the columns.",
            hint=f"If the first line is data, set {key_hint('header')} to false; otherwise remove format.names.",
        )
    if not dialect.header and not dialect.names:
        line = _first_line(path, dialect.encoding or "utf-8")
        raise DataError(
            f"{path}: format.header is false, so format.names must name the fields of the lines; the first line is "
            f"{shorten_line(line)}.",
            hint=f"Give one name for each field in {key_hint('names')}.",
        )


def _check_header(path: Path, dialect: FormatSection, columns: Collection[str]) -> None:
    """Check that the first line is not data where the names of columns are expected."""
    header = read_header(path, dialect)  # checks the opposite case: names of columns where data is expected
    missing = [column for column in columns if column not in header]
    if dialect.header and header and missing and looks_like_data(header):
        line = _first_line(path, dialect.encoding or "utf-8")
        raise DataError(
            f"{path} has no column {missing[0]!r}: its first line looks like data, not like the names of columns: "
            f"{shorten_line(line)}.",
            hint=header_hint(header),
        )


def _first_line(path: Path, encoding: str) -> str:
    with open_text(path, encoding) as lines:
        return next((line for line in lines if line.strip("\r\n")), "")


def _detect_delimiter(path: Path, encoding: str, default: str, columns: Collection[str]) -> str:
    if not columns:
        return default
    headers = {delimiter: _header_fields(path, encoding, delimiter) for delimiter in _DELIMITERS}
    matches = [delimiter for delimiter in _DELIMITERS if all(column in headers[delimiter] for column in columns)]
    if default in matches:
        return default
    if len(matches) == 1:
        return matches[0]
    others = matches or [delimiter for delimiter in _DELIMITERS if len(headers[delimiter]) > 1]
    if others and len(headers[default]) <= 1:
        line = shorten_line(_first_line(path, encoding))
        raise DataError(
            f"{path}: the fields of its first line are not separated by {default!r}: {line}.",
            hint=f"Set {key_hint('delimiter')}, e.g. to {others[0]!r}. If the first line is data, also set "
            "format.header to false.",
        )
    return default


def _header_fields(path: Path, encoding: str, delimiter: str) -> list[str]:
    for quoting in ("standard", "none"):
        with open_text(path, encoding) as file:
            try:
                return next((fields for fields in make_reader(file, delimiter, quoting) if fields), [])
            except csv.Error:  # a stray quotation mark
                continue
    return []


@dataclass
class _Trial:
    """The result of reading a file with one kind of quoting.

    Args:
        header: The first row.
        rows: The number of rows.
        failed_line: The number of the line that cannot be read, or None.
        failed_fields: The number of fields of that line; 0 if its quotation marks are the reason.
        joined_line: The number of the first line whose row continues on the next line, or None.
        enclosed: The number of fields that start and end with a quotation mark.
        marked: The number of fields that contain one.
        swallowed_line: Like `joined_line`, but the first and the last line of the row could be rows themselves.
    """

    header: list[str] | None = None
    rows: int = 0
    failed_line: int | None = None
    failed_fields: int = 0
    joined_line: int | None = None
    enclosed: int = 0
    marked: int = 0
    swallowed_line: int | None = None


def _read_trial(path: Path, dialect: FormatSection, quoting: str) -> _Trial:
    trial = _Trial()
    lines: list[str] = []
    expected = None if dialect.header else len(dialect.names or ())
    delimiter = dialect.delimiter or ","
    with open_text(path, dialect.encoding or "utf-8") as file:
        reader = make_reader(_copy_lines(file, lines), delimiter, quoting)
        try:
            for fields in reader:
                if fields:
                    trial.header = trial.header or fields
                    expected = len(fields) if expected is None else expected
                    trial.rows += 1
                    marked = [field for field in fields if '"' in field]
                    trial.marked += len(marked)
                    trial.enclosed += sum(len(field) > 1 and field[0] == field[-1] == '"' for field in marked)
                    if len(fields) != expected:
                        trial.failed_line, trial.failed_fields = reader.line_num, len(fields)
                        return trial
                if len(lines) > 1:
                    first = reader.line_num - len(lines) + 1
                    trial.joined_line = trial.joined_line or first
                    if all(line.count(delimiter) == len(fields) - 1 for line in (lines[0], lines[-1])):
                        trial.swallowed_line = trial.swallowed_line or first
                lines.clear()
        except csv.Error:
            trial.failed_line = reader.line_num
    return trial


def _copy_lines(file: TextIO, lines: list[str]) -> Iterator[str]:
    """Yield the lines of a file, and append each to a list."""
    for line in file:
        lines.append(line)
        yield line


def _detect_quoting(path: Path, dialect: FormatSection, columns: Collection[str]) -> str:
    with open_text(path, dialect.encoding or "utf-8") as file:
        if not any('"' in line for line in file):
            return "standard"
    # The whole file is read both ways: a stray quotation mark in its last line can decide.
    standard, none = (_read_trial(path, dialect, quoting) for quoting in ("standard", "none"))
    if standard.failed_line is not None and none.failed_line is not None:
        _raise_unreadable(path, dialect, none)
    if standard.failed_line is not None:
        # If most fields with a mark are enclosed in marks, one of them may be damaged, or escaped in another way.
        if none.enclosed * 2 > none.marked:
            _ask_for_quoting(
                path, dialect, standard.failed_line, "most fields with a quotation mark are enclosed, but "
            )
        return "none"
    if none.failed_line is not None:
        # A row of a TSV file that starts and ends with a complete line: its quotation marks may have swallowed lines.
        if dialect.delimiter == "\t" and standard.swallowed_line is not None:
            line = read_line(path, dialect.encoding or "utf-8", standard.swallowed_line)
            raise DataError(
                f"{path}, line {standard.swallowed_line}: its quotation mark either encloses the following lines or is "
                f"an ordinary character: {shorten_line(line)}.",
                hint=f"Set {key_hint('quoting')} to standard (it encloses text) or none (it is ordinary).",
            )
        return "standard"
    if dialect.header and columns and standard.header and none.header:
        known = [all(column in header for column in columns) for header in (standard.header, none.header)]
        if known[0] != known[1]:
            return "standard" if known[0] else "none"
    if standard.rows != none.rows:
        number = standard.joined_line or 1
        line = shorten_line(read_line(path, dialect.encoding or "utf-8", number))
        rows = [trial.rows - dialect.header for trial in (standard, none)]
        raise DataError(
            f"{path}, line {number}: the file has {rows[0]} rows if quotation marks enclose fields, and {rows[1]} rows "
            f"if they are ordinary characters: {line}.",
            hint=f"Set {key_hint('quoting')} to standard (they enclose fields) or none (they are ordinary).",
        )
    # Programs that enclose fields in quotation marks also enclose every field that contains one.
    if dialect.delimiter == "\t" and 0 < none.enclosed < none.marked:
        number = next(number for number, line in _marked_lines(path, dialect))
        _ask_for_quoting(path, dialect, number, "some fields with a quotation mark are enclosed, but not all: ")
    return "standard"


def _marked_lines(path: Path, dialect: FormatSection) -> Iterator[tuple[int, str]]:
    with open_text(path, dialect.encoding or "utf-8") as lines:
        yield from ((number, line) for number, line in enumerate(lines, 1) if '"' in line)


def _ask_for_quoting(path: Path, dialect: FormatSection, number: int, reason: str) -> NoReturn:
    line = shorten_line(read_line(path, dialect.encoding or "utf-8", number))
    raise DataError(
        f"{path}, line {number}: {reason}{line}.",
        hint=f"Set {key_hint('quoting')} to standard (quotation marks enclose fields; inside one, write them twice) or "
        "none (they are ordinary).",
    )


def _raise_unreadable(path: Path, dialect: FormatSection, none: _Trial) -> None:
    """Raise the error of the standard reading, and add the line that also prevents the other one."""
    dialect = dialect.model_copy(update={"quoting": "standard"})
    try:
        for _ in read_records(path, dialect, read_header(path, dialect)):
            pass
    except DataError as error:
        raise DataError(
            str(error),
            hint=f"{error.hint} If quotation marks were ordinary characters, line {none.failed_line} would have "
            f"{none.failed_fields} fields.",
        ) from error
