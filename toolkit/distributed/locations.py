"""Locations of files and folders: local paths, or paths in an object store."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import ArrowInvalid
from pyarrow import fs as arrow_fs

from toolkit.errors import RunError, first_line

PARTIAL = re.compile(r"\.[0-9a-f]{8}\.partial$")
"""The end of the name of a local file that `upload` has not finished."""


@dataclass(frozen=True)
class Location:
    """A file or folder in a file system.

    Args:
        uri: What the user wrote: a local path, or s3://, gs:// or hf:// with a path.
    """

    uri: str

    def open(self) -> tuple[arrow_fs.FileSystem, str]:
        """Return the file system and the path in it.

        Raises:
            RunError: If the file system is not known or cannot be reached.
        """
        scheme, separator, path = self.uri.partition("://")
        if not separator:
            return arrow_fs.LocalFileSystem(), str(Path(self.uri).absolute())
        try:
            if scheme == "hf":
                from huggingface_hub import HfFileSystem

                return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(HfFileSystem())), path
            return arrow_fs.FileSystem.from_uri(self.uri)
        except (ArrowInvalid, OSError, ValueError, NotImplementedError) as error:
            raise RunError(
                f"{self.uri} cannot be opened: {first_line(error)}.",
                hint="Give a local path, or a path that starts with s3://, gs:// or hf://.",
            ) from error

    @property
    def absolute(self) -> "Location":
        """The same location as an absolute path."""
        return self if "://" in self.uri else Location(str(Path(self.uri).absolute()))

    @property
    def real(self) -> str:
        """The path without symbolic links if it is local, else the location itself, to compare two locations."""
        file_system, path = self.open()
        return str(Path(path).resolve()) if isinstance(file_system, arrow_fs.LocalFileSystem) else self.uri.rstrip("/")

    def child(self, name: str) -> "Location":
        """Return a file in this folder."""
        return Location(f"{self.uri.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.uri).name


def upload(file: Path, target: Location) -> None:
    """Copy a local file to its location, whose old version stays until the new one is complete."""
    file_system, path = target.open()
    file_system.create_dir(str(PurePosixPath(path).parent), recursive=True)
    # An object appears when its upload is complete. Elsewhere the copy is renamed when it is complete.
    is_local = isinstance(file_system, arrow_fs.LocalFileSystem)
    # Use a unique name: a worker that Ray considers dead may still be writing the same shard.
    partial = f"{path}.{uuid.uuid4().hex[:8]}.partial" if is_local else path
    arrow_fs.copy_files(str(file), partial, destination_filesystem=file_system)
    if is_local:
        file_system.move(partial, path)


def list_names(folder: Location) -> list[str]:
    """Return the names of the files and folders in a folder in ascending order; none if it does not exist."""
    file_system, path = folder.open()
    infos = file_system.get_file_info(arrow_fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)
