"""Collators: target tokens, masks and padding, and trees that train exactly the predictions of padded rows."""

from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.batching.test_root_split import dense_mask
from toolkit.batching.collators import LossOn, PaddedCollator, TreeAttention, TreeCollator, to_training_row
from toolkit.batching.root_split import RootSplit
from toolkit.prompts.prompt_tokenizer import EncodedRow

END = 9
ROWS = [to_training_row(EncodedRow((1, 2, 3), (7, END))), to_training_row(EncodedRow((1,), (END,)))]


def predictions(micro_batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(micro_batch["nodes"].tolist(), micro_batch["targets"].tolist(), strict=True))


def test_only_the_completion_is_trained() -> None:
    """The completion includes the end-of-turn token."""
    (micro_batch,) = PaddedCollator(2, "completion")(ROWS)["micro_batches"]
    assert micro_batch["input_ids"].tolist() == [[1, 2, 3, 7], [1, 0, 0, 0]]
    assert micro_batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert predictions(micro_batch) == [(2, 7), (3, END), (4, END)]


def test_length_multiple_only_pads() -> None:
    (plain,) = PaddedCollator(2, "completion")(ROWS)["micro_batches"]
    (padded,) = PaddedCollator(2, "completion", length_multiple=16)(ROWS)["micro_batches"]
    rows, length = plain["input_ids"].shape
    assert length < 16 and padded["input_ids"].shape == padded["attention_mask"].shape == (rows, 16)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(padded[name][:, :length], plain[name]) and not padded[name][:, length:].any()
    # The predictions are at the same positions of the same rows.
    for position in (lambda nodes, width: nodes % width, lambda nodes, width: nodes // width):
        assert torch.equal(position(padded["nodes"], 16), position(plain["nodes"], length))
    assert torch.equal(padded["targets"], plain["targets"])


def test_full_text_trains_all_but_first_token() -> None:
    (micro_batch,) = PaddedCollator(2, "full_text")(ROWS)["micro_batches"]
    assert predictions(micro_batch) == [(0, 2), (1, 3), (2, 7), (3, END), (4, END)]


def test_step_totals_cover_all_micro_batches() -> None:
    for collator in (PaddedCollator(1, "completion"), TreeCollator(1, "completion")):
        step = collator(ROWS)
        assert len(step["micro_batches"]) == 2
        assert step["tokens"].tolist() == [7] and step["predictions"].tolist() == [3.0]


def test_shared_node_trains_for_every_row() -> None:
    """A shared node predicts each row's next token: equal ones once with a weight, different ones separately."""
    rows = [to_training_row(EncodedRow(prompt, (END,))) for prompt in [(1, 2, 3), (1, 2, 3), (1, 4, 3)]]
    (micro_batch,) = TreeCollator(100, "full_text")(rows)["micro_batches"]
    assert micro_batch["input_ids"].tolist() == [[1, 2, 3, 3, 4, 3]]
    assert predictions(micro_batch) == [(0, 2), (0, 4), (1, 3), (2, END), (3, END), (4, 3), (5, END)]
    assert micro_batch["weights"].tolist() == [2, 1, 2, 1, 1, 1, 1]


ROW = st.builds(
    lambda prompt, answer: to_training_row(EncodedRow(tuple(prompt), tuple(answer))),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)


def visible_nodes(micro_batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mask of a micro-batch, built from the groups of a tree, and check the mask of predicting nodes."""
    mask = micro_batch["attention_mask"]
    if "slots" not in micro_batch:
        assert mask.dim() == 2 or mask.shape == (1, 1, *[micro_batch["input_ids"].shape[1]] * 2)
        return mask
    split = RootSplit(micro_batch["slots"].numpy(), micro_batch["node_slots"].numpy(), mask[:, 0].numpy())
    pairs = torch.from_numpy(dense_mask(split))
    predicting = np.unique(micro_batch["nodes"])
    assert ("queries" in micro_batch) == (2 * len(predicting) <= len(pairs))
    if "queries" in micro_batch:
        assert micro_batch["queries"].tolist() == predicting.tolist()
        assert torch.equal(micro_batch["query_mask"][0, 0], pairs[predicting])
    return pairs[None, None]


def count_predictions(step: dict[str, Any]) -> Counter[tuple[tuple[int, ...], int]]:
    """Count how often each token is trained after each context, reading the contexts through the masks."""
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    for micro_batch in step["micro_batches"]:
        ids, mask = micro_batch["input_ids"].flatten(), visible_nodes(micro_batch)
        for node, target, weight in zip(
            micro_batch["nodes"], micro_batch["targets"], micro_batch["weights"], strict=True
        ):
            if mask.dim() == 4:
                context = ids[mask[0, 0, node]]
                assert micro_batch["position_ids"][0, node] == len(context) - 1
            else:
                row, position = divmod(int(node), mask.shape[1])
                assert mask[row, position] == 1
                context = micro_batch["input_ids"][row, : position + 1]
            counts[tuple(context.tolist()), int(target)] += int(weight)
    return counts


@pytest.mark.parametrize("attention", get_args(TreeAttention))
@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
@given(rows=st.lists(ROW, min_size=1, max_size=8), micro_batch_size=st.integers(1, 8), batch_tokens=st.integers(1, 30))
def test_trees_train_like_padded_rows(
    loss_on: LossOn, attention: TreeAttention, rows: list[Any], micro_batch_size: int, batch_tokens: int
) -> None:
    """Trees and padded rows train the same predictions, however the step is split into micro-batches."""
    padded = PaddedCollator(micro_batch_size, loss_on)(rows)
    tree, long_tree = (TreeCollator(batch_tokens, loss_on, multiple, attention)(rows) for multiple in (1, 8))
    assert count_predictions(padded) == count_predictions(tree) == count_predictions(long_tree)
    assert padded["predictions"] == tree["predictions"] == sum(count_predictions(tree).values())
    assert all(micro_batch["input_ids"].numel() <= batch_tokens for micro_batch in tree["micro_batches"]) or any(
        len(row["prompt"]) - 1 + len(row["answer"]) > batch_tokens for row in rows
    )


@pytest.mark.parametrize("row", [EncodedRow((1, 2), ()), EncodedRow((), (END,))])
def test_empty_prompt_or_completion_is_refused(row: EncodedRow) -> None:
    with pytest.raises(ValueError, match="needs a prompt and a completion"):
        to_training_row(row)
