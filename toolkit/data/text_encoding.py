"""Text files in any encoding: detection from the byte order mark, and errors that show the line."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from toolkit.data.compression import open_binary
from toolkit.data.messages import key_hint
from toolkit.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # it starts with the mark of UTF-16, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HINT = f"Set {key_hint('encoding')}, e.g. to latin-1 or cp1252, or convert the file to UTF-8."
_SHOWN_CHARACTERS = 80
_BLOCK_BYTES = 1 << 20


def detect_encoding(path: Path, encoding: str | None) -> str:
    """Return the encoding of a text file: the given one, else that of its byte order mark, else UTF-8.

    Raises:
        DataError: If the encoding is unknown or contradicts the byte order mark, or the file is UTF-16 without one.
    """
    with open_binary(path) as file:
        start = file.read(256)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if encoding is None:
        _check_zero_bytes(path, start, marked)
        return marked or "utf-8"
    given = _find_codec(path, encoding)
    if marked is None:
        if not given.startswith("utf") and _is_utf_8(path):
            raise DataError(
                f"{path} is UTF-8 text with accents or other special characters, but format.encoding is {encoding}.",
                hint="Remove format.encoding of the source, or set it to utf-8.",
            )
        return given
    if not marked.startswith(given.removesuffix("-le").removesuffix("-be")):
        raise DataError(
            f"{path} starts with the byte order mark of {marked.removesuffix('-sig').upper()}, so format.encoding "
            f"cannot be {encoding}.",
            hint="Remove format.encoding of the source: the encoding is detected.",
        )
    return marked


def _find_codec(path: Path, encoding: str) -> str:
    try:
        "".encode(encoding)  # raises LookupError also for a codec of bytes, such as zip
        return codecs.lookup(encoding).name
    except (LookupError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: format.encoding {encoding!r} is not the name of an encoding.",
            hint="Write e.g. latin-1, cp1252 or utf-16.",
        ) from error


def _is_utf_8(path: Path) -> bool:
    """Return whether a file is UTF-8 text that is not ASCII. Text in another encoding almost never is."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with open_binary(path) as file:
        try:
            while block := file.read(_BLOCK_BYTES):
                decoder.decode(block)
                is_ascii = is_ascii and block.isascii()
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return not is_ascii


def _check_zero_bytes(path: Path, start: bytes, marked: str | None) -> None:
    # Half of the bytes of Latin text in UTF-16 are zero. As UTF-8, such a file has a NUL after each character.
    if marked is None and start.count(0) * 3 > len(start) > 2:
        encoding = "utf-16-le" if start[1] == 0 else "utf-16-be"
        raise DataError(
            f"{path} is not UTF-8 text: every second byte is zero, as in UTF-16.",
            hint=f"Set format.encoding of the source to {encoding}.",
        )


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a text file for reading without its byte order mark; line breaks are not changed.

    Raises:
        DataError: When reading reaches bytes that are not text in this encoding.
    """
    try:
        # `newline=""` leaves line breaks to the csv module, which keeps those inside quoted fields.
        with open_binary(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
            _skip_marks(path, encoding, text)
            yield text
    except UnicodeError as error:
        raise _describe_invalid_text(path, encoding, error) from error


def _skip_marks(path: Path, encoding: str, text: TextIO) -> None:
    """Skip the byte order marks at the start, of which some programs write two."""
    with open_binary(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="") as copy:
        marks = 0
        while copy.read(1) == "\ufeff":
            marks += 1
    text.read(marks)


def _describe_invalid_text(path: Path, encoding: str, error: UnicodeError) -> DataError:
    name = "UTF-8" if encoding in ("utf-8", "utf-8-sig") else encoding
    if not encoding.startswith(("utf-16", "utf-32")):  # there, a line break is not a single byte
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as line_error:
                    start = max(0, line_error.start - _SHOWN_CHARACTERS // 2)
                    shown = line.decode("latin-1").rstrip("\r\n")[start : start + _SHOWN_CHARACTERS]
                    return DataError(f"{path}, line {number} is not {name} text: {shown!r}.", hint=_HINT)
    return DataError(f"{path} is not {name} text: {error}.", hint=_HINT)
