"""How many rows go through the model at once."""

from collections.abc import Iterator, Sequence


def activation_bytes_per_token(
    *, layers: int, hidden: int, intermediate: int, vocabulary: int, item_bytes: int, checkpointing: bool
) -> int:
    """Memory that a training token holds until its backward pass, roughly.

    A decoder layer keeps about ten vectors of the hidden size (norms, queries, keys, values, attention, residuals) and
    five of the intermediate size (gate, up, their product and its gradients); with checkpointing only its input, and
    the rest for the one layer that is being recomputed. The head adds one row of float32 logits.
    """
    layer = 10 * hidden + 5 * intermediate
    kept = layers * 2 * hidden + layer if checkpointing else layers * layer
    return kept * item_bytes + 4 * vocabulary


def choose_micro_batch(batch_size: int, processes: int, longest: int, bytes_per_token: int, free_bytes: int) -> int:
    """The most rows per forward pass that divide a process's share of the batch and fit into half the free memory.

    Args:
        batch_size: rows per optimiser step, over all processes.
        processes: how many share the batch.
        longest: tokens of the longest row.
        bytes_per_token: see `activation_bytes_per_token`.
        free_bytes: memory beside the weights.

    Returns:
        At least 1: whether that fits is for the device to say.
    """
    share = max(1, batch_size // processes)
    affordable = free_bytes // 2 // max(1, longest * bytes_per_token)
    return next(rows for rows in range(share, 0, -1) if share % rows == 0 and (rows <= affordable or rows == 1))


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group items of similar length, longest first, so that a padded batch holds at most `budget` tokens.

    Args:
        lengths: tokens of each item.
        budget: rows x longest row of a batch; an item that is longer alone is a batch of its own.

    Yields:
        Indices into `lengths`.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
