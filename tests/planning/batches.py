"""Micro-batches of rows with a common prefix, as padded rows or as a prefix tree."""

from typing import Literal

from toolkit.batching.collators import LossOn, MicroBatch, PaddedCollator, TreeCollator, to_training_row
from toolkit.prompts.prompt_tokenizer import EncodedRow

ROWS = [to_training_row(EncodedRow((*range(1, 40), *[i] * 9, *range(i + i // 2, 30), 7), (9, 2))) for i in range(8)]
"""Eight rows whose first 39 tokens are the same."""


def collate_rows(batching: Literal["padded", "split", "dense"], loss_on: LossOn = "completion") -> MicroBatch:
    """Collate all rows into one micro-batch."""
    if batching == "padded":
        collate = PaddedCollator(len(ROWS), loss_on)
    else:
        collate = TreeCollator(9_999, loss_on, attention=batching)
    (micro_batch,) = collate(ROWS)["micro_batches"]
    return micro_batch
