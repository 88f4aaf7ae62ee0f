"""Memory that does not suffice: one sentence, whichever package was allocating, on a CPU as on a GPU."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.errors import DeviceMemoryError, ToolkitError

# On a CPU torch raises a plain RuntimeError; cuBLAS, C++ and the system have words of their own.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|cannot allocate memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice; told without torch, which takes seconds to import."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def memory_errors(message: str, *, hint: str) -> Iterator[None]:
    """Turn what packages raise where memory does not suffice into `message`.

    Raises:
        DeviceMemoryError: it did not; the first of nested ones to see it is the one that speaks.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(message, hint=hint) from error
