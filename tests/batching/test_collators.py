"""Collation: what is trained, what is masked, and what is padding."""

import torch

from toolkit.batching.collators import IGNORED, PaddedCollator, training_row
from toolkit.prompts import EncodedRow

END = 9


def test_only_the_answer_and_its_end_of_turn_are_trained() -> None:
    row = training_row(EncodedRow((1, 2, 3), (7, END)), "completion")
    assert row == {"input_ids": [1, 2, 3, 7, END], "labels": [IGNORED, IGNORED, IGNORED, 7, END]}


def test_full_text_trains_every_token() -> None:
    assert training_row(EncodedRow((1, 2), (7, END)), "full_text")["labels"] == [1, 2, 7, END]


def test_padding_is_never_trained_nor_seen_even_when_it_equals_the_end_of_turn() -> None:
    rows = [
        training_row(EncodedRow((1, 2, 3), (7, END)), "completion"),
        training_row(EncodedRow((1,), (END,)), "completion"),
    ]
    batch = PaddedCollator(pad_token_id=END)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7, END], [1, END, END, END, END]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [7, END], [IGNORED, END, IGNORED, IGNORED, IGNORED]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 2]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
