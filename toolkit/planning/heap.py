"""Fragmentation of the glibc heap: memory that a CPU process holds in addition to its live tensors."""

import ctypes
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from toolkit.planning.shapes import BatchShape, ModelShape, freed_blocks, kept_blocks
from toolkit.recipe.schema import LoraSection

_MMAPPED_BLOCK_BYTES = 32 << 20
_M_MMAP_THRESHOLD = -3  # from malloc.h


def hole_bytes(shape: ModelShape, lora: LoraSection, batch_shape: BatchShape, *, dtype_bytes: int) -> int:
    """Return the size of the holes that freed blocks leave between live ones, as an upper bound in bytes.

    torch requests aligned blocks, for which glibc needs a hole that is slightly larger than the block. The hole of an
    equally large block fits only until a small allocation takes the slack around it. Smaller blocks always fit. So with
    each layer the heap grows by the blocks that the layer keeps, plus at most those that it frees and that no smaller
    block refills. The actual growth varies from run to run with the order of small allocations, so all of it is counted
    (docs/memory.md has measurements).

    With gradient checkpointing there are no holes, see `return_freed_blocks`.

    Args:
        shape: The sizes of the model.
        lora: The LoRA section of the recipe.
        batch_shape: The sizes of a micro-batch.
        dtype_bytes: Bytes per activation.
    """
    freed, kept = (
        [size * dtype_bytes for size in sizes(shape, lora, batch_shape)] for sizes in (freed_blocks, kept_blocks)
    )
    growth = shape.layers * heap_growth(freed, kept)
    # Trees with split attention have blocks of many sizes, which fill most holes. Half of the upper bound is counted,
    # as for traced models (docs/memory.md).
    return growth if batch_shape.split is None else growth // 2


def heap_growth(freed: Iterable[int], kept: Iterable[int]) -> int:
    """Return the bytes by which a layer makes the heap grow in addition to the blocks that it keeps.

    Args:
        freed: The sizes of the blocks that it frees.
        kept: The sizes of the blocks that it keeps.
    """
    freed_blocks, kept_blocks = Counter(freed), Counter(kept)
    growth = 0  # bytes of freed blocks that no smaller one has refilled so far
    # From large to small, because a block can fill the hole of a larger one but not of a smaller one.
    for size in sorted(freed_blocks | kept_blocks, reverse=True):
        # glibc maps blocks of 32 MiB and more separately and unmaps them when freed, so they leave no hole (mallopt(3),
        # DEFAULT_MMAP_THRESHOLD_MAX).
        if size < _MMAPPED_BLOCK_BYTES:
            growth += size * freed_blocks[size] - min(growth, size * (freed_blocks[size] + kept_blocks[size]))
    return growth


def return_freed_blocks() -> None:
    """Make glibc return freed blocks of 1 MiB and more to the system at once, so that they leave no holes.

    Gradient checkpointing frees and allocates every block again, which made a deep and narrow model hold 6.8 GB instead
    of 1.5 GB. The kernel has to clear each returned page before it is used again. This takes time, so only runs with
    gradient checkpointing, which trade time for memory anyway, call this function.
    """
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
