"""A file whose rows are to be classified: its format, its columns and its rows."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.columns import Row, looks_like_data
from toolkit.data.compression import file_suffix
from toolkit.data.delimited import DEFAULT_DELIMITERS, read_header
from toolkit.data.file_reader import complete_format, file_kind, log_detection, stream_file
from toolkit.data.messages import list_names, shorten_line
from toolkit.data.text_encoding import detect_encoding, open_text
from toolkit.errors import DataError
from toolkit.recipe.data_section import FormatSection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionInput:
    """A file whose rows are to be classified.

    Args:
        path: The file.
        format: Its format; of a delimited file, with every part set.
        columns: The columns of the inputs.
        is_lines: Whether each line of the file is a text.
    """

    path: Path
    format: FormatSection
    columns: tuple[str, ...]
    is_lines: bool = False

    @property
    def kind(self) -> str:
        """The kind of file: jsonl, json, csv, tsv or parquet."""
        return file_kind(self.path)

    @property
    def is_delimited(self) -> bool:
        """True if the file is text whose fields are separated by a character."""
        return self.kind in ("csv", "tsv")

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the file."""
        return stream_file(self.path, self.format, self.columns)

    def read_names(self) -> list[str]:
        """Return the names of the columns; in JSON, where rows may have different keys, the keys of the first row.

        Raises:
            DataError: If the file cannot be read, contains no rows or has two columns with the same name.
        """
        first_row = next(iter(self.rows()), None)
        if first_row is None:
            raise DataError(f"{self.path} contains no rows.")
        # A row is a dictionary, in which two columns without a name have become one.
        names = read_header(self.path, self.format) if self.is_delimited else list(first_row)
        if duplicates := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{self.path} has two columns named {duplicates[0]!r}.", hint="Rename one of them.")
        return names


def open_input(path: Path, given: FormatSection, columns: Sequence[str]) -> PredictionInput:
    """Return a file as an input, and detect the parts of its format that are not given.

    A .txt file whose first line does not name the column of a single input has one text per line.

    Args:
        path: The file.
        given: The parts of its format that the recipe states.
        columns: The columns of the inputs.

    Raises:
        DataError: If the format is not certain, or a line of texts is blank.
    """
    if file_suffix(path) == ".txt" and len(columns) == 1 and _is_list_of_texts(path, given, columns[0]):
        encoding = detect_encoding(path, given.encoding)
        # Lines without tabs are the rows of a file with one column.
        lines = FormatSection(delimiter="\t", quoting="none", header=False, names=(columns[0],), encoding=encoding)
        logger.info("format      %s: each line is a text", path)
        return PredictionInput(path, lines, tuple(columns), is_lines=True)
    found = complete_format(path, given, columns)
    log_detection(path, given, found)
    source = PredictionInput(path, found, tuple(columns))
    if not found.header and source.is_delimited and (first_row := next(iter(source.rows()), None)):
        fields = [str(field) for field in first_row.values()]
        if not looks_like_data(fields):
            logger.warning(
                "WARNING: %s is read without a header (format.header: false), so its first line is scored as a row: %s",
                path, list_names(map(repr, fields)),
            )  # fmt: skip
    return source


def _is_list_of_texts(path: Path, given: FormatSection, column: str) -> bool:
    """Return whether each line of a .txt file is a text: it has no header and no delimiter."""
    if given.delimiter is not None:
        return False
    blank = None
    with open_text(path, detect_encoding(path, given.encoding)) as lines:
        for number, line in enumerate(lines, 1):
            text = line.rstrip("\r\n")
            if number == 1 and text.strip().strip('"').casefold() == column.casefold():
                return False
            if DEFAULT_DELIMITERS[".txt"] in text:
                return False
            if not text.strip() and blank is None:
                blank = number
    if blank is not None:
        raise DataError(
            f"{path}, line {blank} is blank, but each line must be a text: the first line does not name the column "
            f"{column!r}.",
            hint=f"Remove the line, or write {shorten_line(column)} as the first line.",
        )
    return True
