"""The paths of data files: their extensions, their patterns, and the difference from datasets on the Hub."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

LOCAL_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".txt", ".parquet")
COMPRESSIONS = (".gz", ".zip")


def split_suffixes(path: str | Path) -> tuple[str, str]:
    """Return the extension that determines the format of a file, and that of its compression; "" where it has none.

    Both are in lower case. Extensions in capitals and a name without a stem (`.jsonl`) count too.
    """
    name = str(path).lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    name = name.removesuffix(compression)
    return next((suffix for suffix in LOCAL_SUFFIXES if name.endswith(suffix)), ""), compression


def data_suffix(path: str | Path) -> str:
    """Return the extension that determines the format of a local data file; "" if the path is not such a file.

    It is one of `LOCAL_SUFFIXES`, or .zip for an archive whose name does not reveal the format of its file.
    """
    suffix, compression = split_suffixes(path)
    return suffix or (".zip" if compression == ".zip" else "")


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern of files, such as `data/*.jsonl`."""
    return glob.has_magic(path) and not Path(path).is_file()


def is_local(path: str | Sequence[str]) -> bool:
    """Return whether the path of a source is that of local files: a list, a pattern, or one file."""
    return not isinstance(path, str) or bool(data_suffix(path)) or is_pattern(path)


def find_files(path: str | Sequence[str]) -> list[Path]:
    """Return the files of a local source: those of a list in its order, those of a pattern sorted by name.

    A file that does not exist is part of the result; a pattern without a match is left out.
    """
    files: list[Path] = []
    for name in [path] if isinstance(path, str) else path:
        if is_pattern(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob needs a relative pattern
            files += [Path(match) for match in matches if Path(match).is_file()]
        else:
            files.append(Path(name))
    return files


def resolve_data_path(path: str) -> str:
    """Make the path of local data files absolute; return a dataset id of the Hub or an embedded name unchanged."""
    return str(absolute_path(path)) if is_local(path) else path


def absolute_path(path: str) -> Path:
    """Return the absolute path without symbolic links, also of a file that does not exist."""
    # Path.expanduser raises if the user does not exist, and Path.resolve if symbolic links form a loop.
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111
