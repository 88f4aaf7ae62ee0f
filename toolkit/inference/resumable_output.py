"""What was scored so far of a file, so that an interrupted command goes on where it stopped."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from toolkit.errors import RunError
from toolkit.utils.storage import storage_errors

CHUNK_ROWS = 256
"""Rows that are scored together; an interruption costs at most these."""


class Journal:
    """One line of origin, then one line for each scored row in the file's order: its label and log-likelihoods.

    Lines are only ever appended, a whole chunk at a time. What an interruption tore is cut off when the file is opened
    again, back to the end of a chunk, so that the remaining rows are scored in the same company as without it.

    Args:
        path: the file.
        origin: what the scores depend on, by name; `rows` is the number of rows in all.
        file: the same file, open for reading and writing.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any], file: BinaryIO) -> None:
        self.path = path
        self.done = 0
        """Rows that are scored and safe on the disk."""
        self._file = file
        self._header_line = json.dumps(dict(origin)).encode() + b"\n"
        self._resume(origin)

    def _resume(self, origin: Mapping[str, Any]) -> None:
        self._file.seek(0)
        header_line = self._file.readline()
        if not header_line.endswith(b"\n") and self._header_line.startswith(
            header_line
        ):  # nothing, or the first line was torn
            self._file.truncate(0)
            self._write(self._header_line)
        elif header_line != self._header_line:
            raise RunError(
                f"{self.path} was begun {_describe_difference(header_line, origin)}, so it cannot be gone on with.",
                hint="Remove it to start again, or give the files and flags it was begun with.",
            )
        else:
            self._truncate_incomplete(origin["rows"])

    def _truncate_incomplete(self, rows: int) -> None:
        end = safe_end = self._file.tell()
        for number, line in enumerate(self._file, 1):
            if number > rows or not _is_complete(line):
                break
            end += len(line)
            if number % CHUNK_ROWS == 0 or number == rows:
                self.done, safe_end = number, end
        self._file.truncate(safe_end)

    def append(self, labels: Sequence[str], log_likelihoods: np.ndarray) -> None:
        """Add a chunk's rows, [rows, labels] in natural logarithms, and return when they are on the disk."""
        rows = zip(labels, log_likelihoods.tolist(), strict=True)
        self._write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
        self.done += len(labels)

    def _write(self, lines: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def chunks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield what was scored, in order: labels, and [rows, labels] log-likelihoods."""
        self._file.seek(len(self._header_line))
        while lines := list(islice(self._file, CHUNK_ROWS)):
            rows = [json.loads(line) for line in lines]
            yield [label for label, _ in rows], np.array([scores for _, scores in rows])


@contextmanager
def open_journal(path: Path, origin: Mapping[str, Any]) -> Iterator[Journal]:
    """Begin a journal, or go on with one of the same origin.

    Raises:
        RunError: the file is of another origin, or in use by another command.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(path), os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{path} is being written by another command.", hint="Wait for it to end.") from error
        journal = Journal(path, origin, file)
        try:
            yield journal
        finally:
            if not journal.done:  # nothing to go on from
                path.unlink(missing_ok=True)


def _is_complete(line: bytes) -> bool:
    try:
        label, scores = json.loads(line) if line.endswith(b"\n") else (None, None)
    except (ValueError, TypeError):
        return False
    return isinstance(label, str) and isinstance(scores, list)


def _describe_difference(header_line: bytes, origin: Mapping[str, Any]) -> str:
    try:
        recorded = json.loads(header_line)
    except ValueError:
        return "by something else"
    if not isinstance(recorded, dict) or recorded.keys() != origin.keys():
        return "by something else"
    return "with another " + " and another ".join(
        key for key in origin if recorded[key] != origin[key] and key != "rows"
    )
