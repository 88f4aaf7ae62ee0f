"""What glibc's heap holds beyond the blocks in use, where tensors lie in it: on a CPU."""

import ctypes
from collections import Counter
from contextlib import suppress

from toolkit.planning.shapes import BatchShape, ModelShape, freed_widths, kept_widths
from toolkit.recipe.schema import Lora

_MMAPPED_BLOCK_BYTES = 32 << 20
_M_MMAP_THRESHOLD = -3  # malloc.h


def hole_bytes(shape: ModelShape, lora: Lora, batch_shape: BatchShape, *, dtype_bytes: int) -> int:
    """What layers free between blocks that stay, and the heap does not give out again.

    torch asks for aligned blocks, for which glibc needs a hole a little larger than the block: that of an equal block
    serves only as long as nothing small has taken the slack around it. Narrower blocks always find room in it. So with
    each layer the heap grows by what it keeps, and by up to all of what it frees and no narrower block fills. How much
    of that depends on the order of all small allocations, from run to run; all of it is predicted, to be safe.
    Blocks of 32 MiB and more are the system's own and leave no hole (mallopt(3), DEFAULT_MMAP_THRESHOLD_MAX). With
    checkpointing there are none, see `return_freed_blocks`.

    Args:
        shape: of the model.
        lora: the adapter.
        batch_shape: what goes through the model at once.
        dtype_bytes: bytes of a number.
    """
    freed, kept = Counter(freed_widths(shape, lora)), Counter(kept_widths(shape, lora))
    room = grown = 0
    for width in sorted(freed | kept, reverse=True):
        if batch_shape.tokens * width * dtype_bytes >= _MMAPPED_BLOCK_BYTES:
            continue
        filled = min(room, width * (freed[width] + kept[width]))
        grown += width * freed[width] - filled
        room += width * freed[width] - filled
    return shape.layers * batch_shape.tokens * dtype_bytes * grown


def return_freed_blocks() -> None:
    """Let glibc give freed blocks from 1 MiB on back to the system at once, so that they leave no holes.

    Where layers are recomputed, every block is freed and asked for again: a deep, narrow model was seen to hold 6.8 GB
    instead of 1.5. Pages have to be cleared anew for it, which takes time, so only who asks for checkpointing pays.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
