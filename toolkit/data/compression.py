"""Data files as streams of bytes: plain, compressed with gzip, or in a zip archive."""

import gzip
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from toolkit.errors import DataError, first_line
from toolkit.recipe.data_paths import split_suffixes

_MAGIC = {b"\x1f\x8b": ("a gzip file", ".gz"), b"PK\x03\x04": ("a zip archive", ".zip")}
_SHOWN_MEMBERS = 5


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, and decompress it if its name ends in .gz or .zip.

    Raises:
        DataError: If the file is damaged, or an archive does not contain exactly one data file.
    """
    compression = split_suffixes(path)[1]
    try:
        if compression == ".gz":
            with gzip.open(path) as file:
                yield cast(BinaryIO, file)
        elif compression == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_find_member(path, archive)) as file:
                yield cast(BinaryIO, file)
        else:
            with path.open("rb") as file:
                _check_uncompressed(path, file)
                yield file
    except (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be decompressed: {first_line(error).rstrip('.')}.", hint="Copy the file again."
        ) from error


@contextmanager
def open_seekable(path: Path) -> Iterator[BinaryIO]:
    """Open a file like `open_binary`, for a reader that moves back and forth in it."""
    with open_binary(path) as file:
        if not split_suffixes(path)[1]:
            yield file
            return
        with tempfile.TemporaryFile() as copy:  # on disk, because the data can be larger than the memory
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield cast(BinaryIO, copy)


def file_suffix(path: Path) -> str:
    """Return the extension that determines the format of a file; in a zip archive, it can be that of the member."""
    suffix, compression = split_suffixes(path)
    if compression != ".zip":
        return suffix
    try:
        with zipfile.ZipFile(path) as archive:
            return split_suffixes(_find_member(path, archive))[0] or suffix
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} cannot be decompressed: {first_line(error)}.", hint="Copy the file again.") from error


def _find_member(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the name of the only data file in an archive."""
    # macOS adds a folder with a hidden file for each file.
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    members = [
        name
        for name, (suffix, compression) in zip(names, map(split_suffixes, names), strict=True)
        if suffix and not compression
    ]
    if len(names) == 1 and not Path(names[0]).suffix and split_suffixes(path)[0]:
        members = names  # rows.csv.zip with a file that has no extension
    if len(members) != 1:
        shown = ", ".join(map(repr, names[:_SHOWN_MEMBERS])) + (", ..." if len(names) > _SHOWN_MEMBERS else "")
        raise DataError(
            f"{path} must contain exactly one data file, but it contains {shown or 'nothing'}.",
            hint="Extract the archive, and use the file with the rows.",
        )
    if archive.getinfo(members[0]).flag_bits & 1:
        raise DataError(f"{path} is encrypted.", hint="Extract the archive.")
    return members[0]


def _check_uncompressed(path: Path, file: BinaryIO) -> None:
    start = file.read(4)
    file.seek(0)
    for magic, (kind, suffix) in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(
                f"{path} is {kind}, but its name does not end in {suffix}.",
                hint=f"Rename it to {path.name}{suffix}. Save a spreadsheet as .csv.",
            )
