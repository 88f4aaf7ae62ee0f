"""Which rows go through the model together: the order of an epoch, and how much fits at once."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

LARGEST_TREE = 1_536
"""Attention over T nodes costs T x T, and a second tree only reads the common beginning again: with b tokens of it and
p weights in a layer of hidden size h, sqrt(b p / 2h) nodes balance the two, about 1,200 for Llama 3.2 1B on XNLI-fr."""


class RowOrder(Sampler[int]):
    """The order of rows in each epoch, a function of the seed and the epoch alone.

    Args:
        groups: the group of each row, e.g. its premise.
        seed: of the shuffling.
        grouping: whether the rows of a group stand next to each other, parted only by a batch's edge; groups are
            shuffled then, and the rows inside each.
    """

    def __init__(self, groups: Sequence[object], *, seed: int, grouping: bool) -> None:
        self._groups = np.unique(np.array([str(group) for group in groups]), return_inverse=True)[1]
        self._seed = seed
        self._grouping = grouping
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated; the trainer calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self))
        if self._grouping:
            group_ranks = generator.permutation(self._groups.max() + 1)
            order = order[np.argsort(group_ranks[self._groups[order]], kind="stable")]
        return iter(order.tolist())


def choose_micro_batch(batch_size: int, processes: int, longest: int, affordable_tokens: int) -> int:
    """The most padded rows per forward pass that divide a process's share of the batch and fit into memory.

    Args:
        batch_size: rows per optimiser step, over all processes.
        processes: how many share the batch.
        longest: tokens of the longest row.
        affordable_tokens: tokens whose activations fit into memory.

    Returns:
        At least 1: whether that fits is for the device to say.
    """
    rows_per_process = max(1, batch_size // processes)
    max_rows = max(1, min(rows_per_process, affordable_tokens // max(1, longest)))
    return next(rows for rows in range(max_rows, 0, -1) if rows_per_process % rows == 0)


def choose_batch_tokens(longest: int, affordable_tokens: int) -> int:
    """Nodes of a prefix tree that fit into memory: at least the longest row, at most what attention is cheap for."""
    return max(longest, min(affordable_tokens, LARGEST_TREE))


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows, the longest first, in batches of at most `batch_tokens` padded tokens, or of one row."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
