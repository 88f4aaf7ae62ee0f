"""Sources of rows: datasets of the Hugging Face Hub, local files and the embedded dataset."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from toolkit.data.columns import Row, has_column
from toolkit.data.file_reader import (
    DETECTED,
    check_file_exists,
    check_format,
    complete_format,
    file_kind,
    log_detection,
    stream_file,
)
from toolkit.embedded import nli_fr
from toolkit.errors import DataError
from toolkit.recipe.data_paths import (
    COMPRESSIONS,
    LOCAL_SUFFIXES,
    data_suffix,
    find_files,
    is_local,
    is_pattern,
    resolve_data_path,
    split_suffixes,
)
from toolkit.recipe.data_section import Source

EMBEDDED = "embedded:nli-fr"
_FORMATS = f"{' '.join(LOCAL_SUFFIXES)} (also with {' or '.join(COMPRESSIONS)})"
_UNSUPPORTED_SUFFIXES = (
    ".text", ".md", ".jsonlines", ".json5", ".yaml", ".yml", ".xml", ".html", ".dat",
    ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".orc", ".avro", ".h5", ".npy", ".npz", ".pkl", ".pickle", ".rds",
    ".db", ".sqlite", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z",
)  # fmt: skip
"""Extensions of files that hold rows but are not read. A path with one of them is not a dataset on the Hub."""
_SHOWN_FILES = 3


def read_rows(source: Source, columns: Collection[str] = ()) -> tuple[list[Row], list[str]]:
    """Read a source.

    Args:
        source: The source.
        columns: The columns that the recipe needs, which confirm the detected format of a file.

    Returns:
        The rows in the order of the source, cut to `limit`, and the names of their columns.

    Raises:
        DataError: If the source is missing, cannot be read or has no rows, or its files have different columns.
    """
    if is_local(source.path):
        rows = _read_files(source, columns)
    elif source.format != DETECTED:
        raise DataError(f"{describe(source)} is not a file, so format has no effect.", hint="Remove format.")
    else:
        rows = _read_embedded(source) if str(source.path).startswith("embedded:") else _read_hub(source)
    rows = rows[: source.limit]
    if not rows:
        raise DataError(f"{describe(source)} contains no rows.", hint="Use data with at least one row.")
    # JSON rows may have different keys. The columns are all keys, in the order of their first occurrence.
    return rows, list(dict.fromkeys(column for row in rows for column in row))


def _read_files(source: Source, columns: Collection[str]) -> list[Row]:
    check_files_exist(source)
    files = find_files(source.path)
    rows: list[Row] = []
    for path in files:
        check_format(path, source.format)
        found = complete_format(path, source.format, columns)
        log_detection(path, source.format, found)
        new_rows = list(stream_file(path, found, columns))
        if rows and new_rows:
            _check_same_columns(files[0], rows, path, new_rows, columns)
        rows += new_rows
    return rows


def _check_same_columns(
    first: Path, rows: Sequence[Row], path: Path, new_rows: Sequence[Row], columns: Collection[str]
) -> None:
    """Check that a file has the columns of the first one; in JSON, where rows can lack keys, only the needed ones."""
    is_json = file_kind(path).startswith("json") or file_kind(first).startswith("json")
    names = columns if is_json else dict.fromkeys([*rows[0], *new_rows[0]])
    for name in names:
        in_first, in_new = has_column(rows, name), has_column(new_rows, name)
        if in_first != in_new:
            lacking, other = (path, first) if in_first else (first, path)
            raise DataError(
                f"{lacking} has no column {name!r}, but {other} does.",
                hint="Use files with the same columns in one source.",
            )


def parse_data(data: str) -> Source:
    """Parse the path of a file or `embedded:nli-fr:SPLIT` into a source."""
    if data.startswith(f"{EMBEDDED}:"):
        return Source(path=EMBEDDED, split=data.removeprefix(f"{EMBEDDED}:"))
    if not is_local(data) and not data.startswith("embedded:"):
        raise DataError(
            f"The data {data!r} is neither a file in one of the formats {_FORMATS} nor {EMBEDDED}:SPLIT.",
            hint='A dataset on the Hub is set in the recipe, e.g. overrides={"data.eval.path": "facebook/xnli"}.',
        )
    return Source(path=resolve_data_path(data))


def check_files_exist(*sources: Source) -> None:
    """Check that the local files among the sources exist, and that the others can be datasets on the Hub.

    Nothing is read, so that a wrong path is reported before the imports that take seconds.

    Raises:
        DataError: If a file is missing or has an unsupported format, or a dataset lacks its split. The message names
            the first one.
    """
    for source in sources:
        if is_local(source.path):
            _check_local_files(source.path)
        elif not str(source.path).startswith("embedded:"):
            _check_dataset(source)


def _check_local_files(path: str | Sequence[str]) -> None:
    for name in [path] if isinstance(path, str) else path:
        if is_pattern(name):
            if not find_files(name):
                raise DataError(
                    f"Data file not found: no file matches {name}.",
                    hint="Check the pattern. Relative paths start from the working directory.",
                )
        elif not data_suffix(name):
            raise DataError(
                f"{name} is not a data file: its name does not end in one of {_FORMATS}.",
                hint="A list of paths can contain only files and patterns of files.",
            )
        else:
            check_file_exists(Path(name))


def describe(source: Source) -> str:
    """Return a short name of a source, for messages and run.json."""
    if isinstance(source.path, str):
        components = (source.path,) if is_local(source.path) else (source.path, source.name, source.split)
        return ":".join(component for component in components if component)
    shown, others = source.path[:_SHOWN_FILES], len(source.path) - _SHOWN_FILES
    return ", ".join(shown) + (f" and {others} more" if others > 0 else "")


def slug(source: Source) -> str:
    """Return the part of a folder name that identifies a source.

    For files, it consists of the parent folder and the stem of the first one, because many datasets call their files
    test.jsonl. For other sources, it consists of path, configuration and split.
    """
    if is_local(source.path):
        path = Path(source.path if isinstance(source.path, str) else source.path[0])
        stem, compression = split_suffixes(path.name)
        name = path.name[: len(path.name) - len(stem) - len(compression)] or path.stem
        others = "" if isinstance(source.path, str) or len(source.path) == 1 else f"{len(source.path) - 1}-more"
        text = "-".join(component for component in (path.parent.name, name, others) if component)
        return re.sub(r"[*?\[\]]+", "_", text)
    return describe(source).removeprefix("embedded:").replace(":", "-").replace("/", "-")


def _read_embedded(source: Source) -> list[Row]:
    if source.path != EMBEDDED:
        raise DataError(f"There is no embedded dataset {source.path!r}.", hint=f"Use {EMBEDDED}.")
    return nli_fr.load_split(source.split or "train")


def _read_hub(source: Source) -> list[Row]:
    split = _check_dataset(source)
    from toolkit.data.hub import load_hub_rows  # `datasets` takes seconds to import

    return load_hub_rows(str(source.path), source.name, split)


def _check_dataset(source: Source) -> str:
    """Return the split of a dataset on the Hub.

    Raises:
        DataError: If the path must be that of a file or folder, or there is no split.
    """
    path = str(source.path)
    # An id on the Hub is NAME or OWNER/NAME. It may contain a dot, so only known extensions make it a file.
    is_path = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
    if is_path or path.lower().endswith(_UNSUPPORTED_SUFFIXES) or Path(path).exists():
        raise DataError(
            f"{path} is not a data file: its name does not end in one of {_FORMATS}.",
            hint="Convert it to one of these formats, with a column for each text and for the label.",
        )
    if source.split is None:
        raise DataError(
            f"The Hub dataset {path} needs a split.",
            hint="Set data.train.split, data.dev.split or data.eval.split. If it is a local file, its name must end in "
            f"one of {_FORMATS}.",
        )
    return source.split
