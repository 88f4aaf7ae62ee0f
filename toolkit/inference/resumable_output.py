"""A journal of the scored rows of a file, from which an interrupted prediction resumes."""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from toolkit.errors import RunError
from toolkit.utils.storage import storage_errors


class Journal:
    """A file with a header line and one line per scored row, with its label, log-likelihoods and checksum.

    Lines are only appended, one chunk at a time, so an interruption loses at most one chunk. When the file is opened
    again, it is cut off before the first chunk that is incomplete or damaged. The remaining rows then have the same
    batches as in an uninterrupted run, and so the same scores to the last digit.

    Args:
        path: The file.
        origin: The inputs that the scores depend on, by name. `rows` is the total number of rows.
        file: The same file, open for reading and writing.
        chunk_rows: The number of rows per chunk.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any], file: BinaryIO, chunk_rows: int) -> None:
        self.path = path
        self.chunk_rows = chunk_rows
        self.done = 0
        """The number of rows that are scored and on the disk."""
        self._file = file
        self._header_line = json.dumps(dict(origin)).encode() + b"\n"
        self._resume(origin)

    def _resume(self, origin: Mapping[str, Any]) -> None:
        self._file.seek(0)
        header_line = self._file.readline()
        # The file is new and empty, or an interruption left only the beginning of its header line.
        if not header_line.endswith(b"\n") and self._header_line.startswith(header_line):
            self._file.truncate(0)
            self._write(self._header_line)
        elif header_line != self._header_line:
            raise RunError(
                f"Cannot resume from {self.path}, because it {_describe_difference(header_line, origin)}.",
                hint="Delete it to start from scratch, or use the same files and settings as before.",
            )
        else:
            self._truncate_incomplete(origin["rows"])

    def _truncate_incomplete(self, rows: int) -> None:
        # Keep complete lines up to the end of a chunk. The last chunk may be shorter.
        end = safe_end = self._file.tell()
        for number, line in enumerate(self._file, 1):
            if number > rows or not _is_intact(line):
                break
            end += len(line)
            if number % self.chunk_rows == 0 or number == rows:
                self.done, safe_end = number, end
        self._file.truncate(safe_end)

    def append(self, labels: Sequence[str], log_likelihoods: np.ndarray) -> None:
        """Append the rows of a chunk, and return when they are on the disk.

        Args:
            labels: The predicted label of each row.
            log_likelihoods: Natural logarithms, [rows, labels].
        """
        rows = zip(labels, log_likelihoods.tolist(), strict=True)
        self._write(b"".join(json.dumps([*row, _checksum(*row)]).encode() + b"\n" for row in rows))
        self.done += len(labels)

    def _write(self, lines: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def chunks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield the labels and the log-likelihoods, [rows, labels], of each chunk in order."""
        self._file.seek(len(self._header_line))
        while lines := list(islice(self._file, self.chunk_rows)):
            rows = [json.loads(line) for line in lines]
            yield [label for label, _, _ in rows], np.array([scores for _, scores, _ in rows])


@contextmanager
def open_journal(path: Path, origin: Mapping[str, Any], chunk_rows: int) -> Iterator[Journal]:
    """Start a journal, or resume one of the same origin; see `Journal` for the arguments.

    Raises:
        RunError: If the file has a different origin, or another command is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # These flags create a missing file without truncating an existing one, which no mode of the built-in `open` does.
    with storage_errors(path), os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{path} is being written by another command.", hint="Wait until it has finished."
            ) from error
        journal = Journal(path, origin, file, chunk_rows)
        try:
            yield journal
        finally:
            if not journal.done:  # nothing to resume from
                path.unlink(missing_ok=True)


def _is_intact(line: bytes) -> bool:
    try:
        label, scores, checksum = json.loads(line) if line.endswith(b"\n") else (None, None, None)
        return bool(checksum == _checksum(label, scores))
    except (ValueError, TypeError, RecursionError):
        return False


def _checksum(label: Any, scores: Any) -> int:
    # Python writes a number in the shortest form that is read as the same number, so the text can be made again.
    return zlib.crc32(json.dumps([label, scores]).encode())


def _describe_difference(header_line: bytes, origin: Mapping[str, Any]) -> str:
    try:
        recorded = json.loads(header_line)
    except (ValueError, RecursionError):
        return "was not written by this command"
    if not isinstance(recorded, dict) or recorded.keys() != origin.keys():
        return "was not written by this command"
    # The number of rows differs only if the input does, which is named anyway.
    return "was started with a different " + " and a different ".join(
        key for key in origin if recorded[key] != origin[key] and key != "rows"
    )
