"""Out-of-memory errors: one error with one message, for any package, on the CPU and on the GPU."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.errors import DeviceMemoryError, ToolkitError

# On a CPU, torch raises a plain RuntimeError. cuBLAS, C++ and the operating system each have their own message.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|cannot allocate memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is an out-of-memory error."""
    # torch.OutOfMemoryError is recognized by its name, because importing torch takes seconds.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def memory_errors(message: str, *, hint: str) -> Iterator[None]:
    """Turn any package's out-of-memory error into an error with `message`.

    Raises:
        DeviceMemoryError: If memory runs out inside the block. If contexts are nested, the innermost one raises it.
    """
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(message, hint=hint) from error
