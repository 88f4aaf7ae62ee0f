"""Shards: many files with the same columns, in a local folder or an object store, and their outputs.

An output shard is written next to a small JSON file in `_done/`, which a worker writes last. A shard is done if that
file exists and describes the same input and the same model, so any process can be killed at any moment.
"""

import fnmatch
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowInvalid, parquet
from pyarrow import fs as arrow_fs

from toolkit.data.compression import file_suffix
from toolkit.data.prediction_input import open_input
from toolkit.distributed.locations import PARTIAL, Location, list_names, upload
from toolkit.errors import DataError, RunError, first_line
from toolkit.recipe.data_section import FormatSection
from toolkit.utils.formatting import join_names

DONE = "_done"
MANIFEST = "manifest.json"
_OTHER_FOLDER = "Choose another output folder."
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Shard:
    """An input shard.

    Args:
        uri: Its location.
        size: Its size in bytes.
        modified: The time of its last change, in ISO 8601; None if the file system does not know it.
    """

    uri: str
    size: int
    modified: str | None

    @property
    def name(self) -> str:
        """The name of the file, which is also that of the output."""
        return Location(self.uri).name


def list_shards(pattern: str) -> list[Shard]:
    """Return the files that match a pattern, in the order of their names.

    Args:
        pattern: A path whose last part can contain wildcards, e.g. `s3://bucket/shards/*.parquet`.

    Raises:
        DataError: If there are none, or the folder cannot be listed.
        RunError: If the file system cannot be opened.
    """
    folder, _, name = pattern.rpartition("/")
    if not folder and pattern.startswith("/"):
        folder = "/"
    if _WILDCARD.search(folder):
        raise DataError(f"{pattern}: only the file name can contain wildcards.", hint="Name one folder.")
    file_system, path = Location(folder or ".").open()
    try:
        infos = file_system.get_file_info(arrow_fs.FileSelector(path))
    except (OSError, FileNotFoundError) as error:
        raise DataError(f"{folder or '.'} cannot be listed: {first_line(error)}.", hint="Check the path.") from error
    matching = [
        info for info in infos if info.type == arrow_fs.FileType.File and fnmatch.fnmatchcase(info.base_name, name)
    ]
    if not matching:
        raise DataError(f"No file matches {pattern}.", hint='Quote the pattern, e.g. --input "shards/*.parquet".')
    # Absolute, because workers have other working directories.
    prefix = f"{folder}/" if "://" in folder else f"{path.rstrip('/')}/"
    return sorted(
        (
            Shard(f"{prefix}{info.base_name}", info.size, info.mtime.isoformat() if info.mtime else None)
            for info in matching
        ),
        key=lambda shard: shard.name,
    )


def check_same_columns(shards: Sequence[Shard], file_format: FormatSection, inputs: Sequence[str]) -> None:
    """Check that all shards have the same format and the same columns.

    Args:
        shards: The shards.
        file_format: The parts of the format that the recipe states.
        inputs: The columns of the inputs.

    Raises:
        DataError: If they differ. The message names the first shard that does.
    """
    first = shards[0]
    for shard in shards:
        if file_suffix(Path(shard.name)) != file_suffix(Path(first.name)):
            raise DataError(
                f"{shard.name} and {first.name} have different formats.", hint="Choose shards of the same format."
            )
    expected = read_columns(first, file_format, inputs)
    for shard in shards[1:]:
        if (columns := read_columns(shard, file_format, inputs)) != expected:
            raise DataError(
                f"{shard.name} has the columns {join_names(columns)}, but {first.name} has {join_names(expected)}.",
                hint="Give shards with the same columns, or label them one after the other.",
            )


def read_columns(shard: Shard, file_format: FormatSection, inputs: Sequence[str]) -> list[str]:
    """Return the names of a shard's columns.

    Raises:
        DataError: If it cannot be read.
    """
    file_system, path = Location(shard.uri).open()
    if file_suffix(Path(shard.name)) == ".parquet":
        try:
            with file_system.open_input_file(path) as file:
                return list(parquet.read_schema(file).names)
        except (ArrowInvalid, OSError) as error:
            raise DataError(f"{shard.uri} cannot be read: {first_line(error)}.", hint="Write it again.") from error
    with tempfile.TemporaryDirectory() as scratch:
        return open_input(download(shard, Path(scratch)), file_format, inputs).read_names()


def download(shard: Shard, folder: Path) -> Path:
    """Return a shard as a local file: the file itself, or a copy in a folder."""
    file_system, path = Location(shard.uri).open()
    if isinstance(file_system, arrow_fs.LocalFileSystem):
        return Path(path)
    copy = folder / shard.name
    arrow_fs.copy_files(path, str(copy), source_filesystem=file_system)
    return copy


@dataclass(frozen=True)
class ShardResult:
    """The record of a labeled shard, saved as _done/NAME.json.

    Args:
        shard: The shard as it was when it was labeled.
        origin: What the predictions depend on besides the rows, see `predict_shards`.
        rows: The number of rows.
        truncated: The number of rows whose text was truncated.
    """

    shard: Shard
    origin: dict[str, Any]
    rows: int
    truncated: int


def save_result(output: Location, result: ShardResult) -> None:
    """Save the record of a labeled shard, after its output."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "result.json")
        file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        upload(file, output.child(f"{DONE}/{result.shard.name}.json"))


def read_results(output: Location) -> dict[str, ShardResult]:
    """Return the records of the shards that are done, by the names of the shards."""
    results = {}
    outputs = set(list_names(output))
    for name in list_names(output.child(DONE)):
        if name.removesuffix(".json") in outputs and (record := _read_json(output.child(f"{DONE}/{name}"))):
            with suppress(TypeError, KeyError):
                result = ShardResult(**{**record, "shard": Shard(**record["shard"])})
                results[result.shard.name] = result
    return results


def _read_json(location: Location) -> Any:
    file_system, path = location.open()
    try:
        with file_system.open_input_stream(path) as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None


def find_missing(output: Location, shards: Sequence[Shard], origin: dict[str, Any]) -> list[Shard]:
    """Return the shards that are not done. The folder may contain outputs of further shards by the same model.

    Raises:
        RunError: If outputs of another model or of changed inputs are in the folder, or files that are not outputs.
    """
    _check_foreign_files(output, shards)
    results, by_name = read_results(output), {shard.name: shard for shard in shards}
    for name, result in results.items():
        changed = [key for key, value in origin.items() if result.origin.get(key) != value]
        if changed or by_name.get(name, result.shard) != result.shard:
            what = join_names(changed, "and") if changed else "input shard"
            raise RunError(f"{output.child(name).uri} was written with another {what}.", hint=_OTHER_FOLDER)
    return [shard for shard in shards if shard.name not in results]


def _check_foreign_files(output: Location, shards: Sequence[Shard]) -> None:
    if any(Location(shard.uri.rpartition("/")[0] or "/").real == output.real for shard in shards):
        raise RunError(f"{output.uri} is the folder of the input, which the output would replace.", hint=_OTHER_FOLDER)
    if reserved := {MANIFEST, DONE} & {shard.name for shard in shards}:
        raise DataError(
            f"A shard is named {min(reserved)}, which is reserved for the output.", hint="Rename the shard."
        )
    names = list_names(output)
    known = {MANIFEST, DONE, *(shard.name for shard in shards)}
    foreign = [name for name in names if PARTIAL.sub("", name) not in known]
    if foreign and DONE not in names:
        raise RunError(
            f"{output.uri} contains {foreign[0]}, which is not an output of these shards.",
            hint=_OTHER_FOLDER,
        )


def write_manifest(output: Location, shards: Sequence[Shard], origin: dict[str, Any]) -> dict[str, Any]:
    """Write manifest.json, the records of all shards that are done, and return its contents.

    Files that killed workers left unfinished are removed, but only those of the given shards: another driver can be
    adding others.
    """
    names = {shard.name for shard in shards}
    for folder, suffix in ((output, ""), (output.child(DONE), ".json")):
        file_system, path = folder.open()
        for name in list_names(folder):
            if PARTIAL.search(name) and PARTIAL.sub("", name).removesuffix(suffix) in names:
                file_system.delete_file(f"{path}/{name}")
    results = list(read_results(output).values())
    manifest = {
        "origin": origin,
        "rows": sum(result.rows for result in results),
        "truncated": sum(result.truncated for result in results),
        "shards": [{**asdict(result.shard), "rows": result.rows, "truncated": result.truncated} for result in results],
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, MANIFEST)
        file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        upload(file, output.child(MANIFEST))
    return manifest
