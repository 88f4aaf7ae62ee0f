"""Token ids of rows become the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from toolkit.prompts import EncodedRow

IGNORED = -100


def training_row(row: EncodedRow, loss_on: Literal["completion", "full_text"]) -> dict[str, list[int]]:
    """A row's input ids and its labels: the answer's ids, or all of them, in place; -100 where nothing is trained.

    The mask follows from where the answer begins, never from a token's value, so a padding token that equals the
    end of turn cannot untrain it.
    """
    ids = [*row.prompt, *row.answer]
    trained = ids if loss_on == "full_text" else [IGNORED] * len(row.prompt) + list(row.answer)
    return {"input_ids": ids, "labels": list(trained)}


@dataclass(frozen=True)
class PaddedCollator:
    """Pads rows at their right to the longest one.

    Args:
        pad_token_id: what stands in the padding; masked in the attention and in the loss.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Collate to `input_ids`, `attention_mask` and `labels`, each [rows, longest], int64."""
        return {
            "input_ids": pad([row["input_ids"] for row in rows], self.pad_token_id),
            "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": pad([row["labels"] for row in rows], IGNORED),
        }


def pad(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Stack sequences of ids into [sequences, longest], int64, with `value` at the right of the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(sequence, dtype=torch.long) for sequence in sequences], batch_first=True, padding_value=value
    )
