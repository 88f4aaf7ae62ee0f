"""The order of rows in an epoch, and the size of the batches that fit into memory."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

MAX_TREE_NODES = 1_536
"""The largest prefix tree, in nodes, on a CPU or a GPU older than Ampere.

A second tree computes the shared prefix again, which is all that a larger tree saves: 92 of 1,536 nodes for Llama 3.2
on XNLI-fr."""
LARGE_TREE_NODES = 16_384
"""The same limit for Ampere and later GPUs, on which launching kernels takes longer than computing small trees.

On an H200, one tree of 9,216 nodes takes less than a third of the time of the same rows in four trees (docs/gpu.md).
Other GPUs were not measured."""
HOPPER_DENSE_NODES = 4_096
"""The largest prefix tree, in nodes, that Hopper and later GPUs compute with dense attention.

Attention split at the root launches more kernels. On an H200 it is slower than dense attention in a tree of 2,560
nodes, and saves more than a third of the time in a tree of 9,216. This limit lies between them (docs/gpu.md)."""
LENGTH_MULTIPLES = {("cpu", 4): 1, ("cpu", 2): 32, ("cuda", 4): 128, ("cuda", 2): 128}
"""The number to a multiple of which trees are padded, by device and bytes per element.

See `PrefixTree.with_length_multiple_of`. For 16-bit matrix products on a CPU, torch calls oneDNN, which compiles a
kernel for each length and keeps it in memory: 300 lengths in the five shapes of Gemma 3 270M's layers took 2.1 GB, and
the ten multiples of 32 among them 0.15 GB."""
_ROW_LENGTH_MULTIPLES = {("cpu", 2): 8}
"""The same for padded rows, whose number multiplies the padding; 1 where nothing is given."""


class RowOrder(Sampler[int]):
    """The shuffled order of rows in each epoch, which depends only on the seed and the epoch.

    Args:
        groups: The group of each row, e.g. its premise.
        seed: The seed of the shuffle.
        grouping: Whether to keep the rows of a group next to each other. The groups are shuffled, and so are the rows
            within each group. A group may still be split between two batches.
    """

    def __init__(self, groups: Sequence[object], *, seed: int, grouping: bool) -> None:
        self._groups = np.unique(np.array([str(group) for group in groups]), return_inverse=True)[1]
        self._seed = seed
        self._grouping = grouping
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to iterate over. The trainer calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[int]:
        # No state is carried from epoch to epoch, so a resumed run can start in any epoch and see the same order.
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self))
        if self._grouping:
            group_ranks = generator.permutation(self._groups.max() + 1)
            # A stable sort keeps the shuffled order of the rows within each group.
            order = order[np.argsort(group_ranks[self._groups[order]], kind="stable")]
        return iter(order.tolist())


def choose_micro_batch(batch_size: int, processes: int, longest: int, affordable_tokens: int) -> int:
    """Return the largest micro-batch, in padded rows, that fits into memory and divides a process's rows evenly.

    Args:
        batch_size: The rows per optimizer step, over all processes.
        processes: The number of processes that share the batch.
        longest: The length of the longest row in tokens.
        affordable_tokens: The number of tokens whose activations fit into memory.

    Returns:
        The rows per micro-batch, at least 1 even if a single row exceeds `affordable_tokens`.
    """
    rows_per_process = max(1, batch_size // processes)
    max_rows = max(1, min(rows_per_process, affordable_tokens // max(1, longest)))
    return next(rows for rows in range(max_rows, 0, -1) if rows_per_process % rows == 0)


def row_length_multiple(device: str, dtype_bytes: int, max_length: int) -> int:
    """Return the number to a multiple of which the lengths of padded rows are rounded up.

    Args:
        device: cpu or cuda.
        dtype_bytes: The bytes per element of the data type that the model computes in, e.g. 2 for bfloat16.
        max_length: The length of the longest row that the model is given, which padding must not exceed.
    """
    multiple = _ROW_LENGTH_MULTIPLES.get((device, dtype_bytes), 1)
    return multiple if max_length % multiple == 0 else 1


def choose_batch_tokens(longest: int, affordable_tokens: int, max_nodes: int = MAX_TREE_NODES) -> int:
    """Return the nodes per prefix tree that fit into memory: at least the longest row, at most `max_nodes`."""
    return max(longest, min(affordable_tokens, max_nodes))


def batch_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of rows in batches of similar length, longest first.

    A batch has at most `batch_tokens` padded tokens, unless it consists of a single longer row.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The first row of a batch is its longest, so all others are padded to its length.
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
