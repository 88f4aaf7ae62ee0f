"""A reader of Parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from toolkit.data.columns import Row
from toolkit.data.compression import open_seekable
from toolkit.data.messages import check_unique_columns
from toolkit.errors import DataError, first_line

_BATCH_ROWS = 1024  # rows in memory at once
_BUFFER_BYTES = 1 << 20  # per column


def open_parquet(stream: BinaryIO) -> Any:
    """Open a Parquet file as a `pyarrow.parquet.ParquetFile` that reads row groups in small pieces."""
    import pyarrow.parquet

    # By default, pyarrow reads a complete row group into memory, and many programs write a single one per file.
    return pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def read_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file as Python objects; categories are read as their values.

    Raises:
        DataError: If the file cannot be read, or two columns share a name.
    """
    with open_seekable(path) as stream:
        try:
            with open_parquet(stream) as file:
                check_unique_columns(path, file.schema_arrow.names)
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from batch.to_pylist()
        except DataError:
            raise
        # pyarrow has no common error for damaged files: OSError, ArrowInvalid, ValueError, ...
        except Exception as error:
            raise DataError(
                f"{path} is not a readable Parquet file: {first_line(error).rstrip('.')}.",
                hint="Create the file again, or copy it again.",
            ) from error
