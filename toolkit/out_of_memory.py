"""Memory that does not suffice: one sentence, whichever package was allocating, on a CPU as on a GPU."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from toolkit.errors import DeviceMemoryError, ToolkitError

# On a CPU torch raises a plain RuntimeError; cuBLAS, C++ and the system have words of their own.
_SIGNS = re.compile(
    r"out of memory|DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|cannot allocate memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice; told without torch, which takes seconds to import."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_SIGNS.search(str(error)))


@contextmanager
def memory_errors(sentence: str, *, hint: str) -> Iterator[None]:
    """Turn what packages raise where memory does not suffice into `sentence`.

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
        raise DeviceMemoryError(sentence, hint=hint) from error


def step_errors() -> AbstractContextManager[None]:
    """`memory_errors` of training steps."""
    return memory_errors(
        "The device's memory does not hold a training step.",
        hint="Lower training.batch_tokens (training.micro_batch_size where rows are padded), "
        "or set training.gradient_checkpointing: true, or model.load_in_4bit: true.",
    )


def scoring_errors() -> AbstractContextManager[None]:
    """`memory_errors` of an evaluation and a prediction."""
    return memory_errors(
        "The device's memory does not hold a forward pass over these rows.",
        hint="Lower evaluation.batch_tokens, e.g. --set evaluation.batch_tokens=512, or set model.load_in_4bit: true.",
    )
