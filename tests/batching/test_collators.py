"""Collation: what is trained, what is masked, what is padding, and that a tree trains what padded rows train."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.batching.collators import LossOn, PaddedCollator, TreeCollator, training_row
from toolkit.prompts.encoder import EncodedRow

END = 9
ROWS = [training_row(EncodedRow((1, 2, 3), (7, END))), training_row(EncodedRow((1,), (END,)))]


def predictions(part: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(part["nodes"].tolist(), part["targets"].tolist(), strict=True))


def test_only_the_answer_and_its_end_of_turn_are_trained() -> None:
    (part,) = PaddedCollator(2, "completion")(ROWS)["parts"]
    assert part["input_ids"].tolist() == [[1, 2, 3, 7], [1, 0, 0, 0]]
    assert part["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert predictions(part) == [(2, 7), (3, END), (4, END)]


def test_full_text_trains_every_token_but_the_first() -> None:
    (part,) = PaddedCollator(2, "full_text")(ROWS)["parts"]
    assert predictions(part) == [(0, 2), (1, 3), (2, 7), (3, END), (4, END)]


def test_a_step_counts_tokens_and_predictions_over_its_parts() -> None:
    for collator in (PaddedCollator(1, "completion"), TreeCollator(1, "completion")):
        step = collator(ROWS)
        assert len(step["parts"]) == 2
        assert step["tokens"].tolist() == [7] and step["trained"].tolist() == [3.0]


def test_a_node_that_rows_share_is_trained_once_for_each_and_to_several_tokens() -> None:
    rows = [training_row(EncodedRow(prompt, (END,))) for prompt in [(1, 2, 3), (1, 2, 3), (1, 4, 3)]]
    (part,) = TreeCollator(100, "full_text")(rows)["parts"]
    assert part["input_ids"].tolist() == [[1, 2, 3, 3, 4, 3]]
    assert predictions(part) == [(0, 2), (0, 4), (1, 3), (2, END), (3, END), (4, 3), (5, END)]
    assert part["weights"].tolist() == [2, 1, 2, 1, 1, 1, 1]


ROW = st.builds(
    lambda prompt, answer: training_row(EncodedRow(tuple(prompt), tuple(answer))),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)


def trained(step: dict[str, Any]) -> Counter[tuple[tuple[int, ...], int]]:
    """How often each token is trained behind each context, read back through the masks."""
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    for part in step["parts"]:
        ids, mask = part["input_ids"].flatten(), part["attention_mask"]
        for node, target, weight in zip(part["nodes"], part["targets"], part["weights"], strict=True):
            if mask.dim() == 4:
                context = ids[mask[0, 0, node]]
                assert part["position_ids"][0, node] == len(context) - 1
            else:
                row, place = divmod(int(node), mask.shape[1])
                assert mask[row, place] == 1
                context = part["input_ids"][row, : place + 1]
            found[tuple(context.tolist()), int(target)] += int(weight)
    return found


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
@given(rows=st.lists(ROW, min_size=1, max_size=8), micro=st.integers(1, 8), budget=st.integers(1, 30))
def test_a_tree_trains_what_padded_rows_train_however_the_step_is_parted(
    loss_on: LossOn, rows: list[Any], micro: int, budget: int
) -> None:
    padded, tree = PaddedCollator(micro, loss_on)(rows), TreeCollator(budget, loss_on)(rows)
    assert trained(padded) == trained(tree)
    assert padded["trained"] == tree["trained"] == sum(trained(tree).values())
    assert all(part["input_ids"].numel() <= budget for part in tree["parts"]) or any(
        len(row["prompt"]) - 1 + len(row["answer"]) > budget for row in rows
    )


@pytest.mark.parametrize("row", [EncodedRow((1, 2), ()), EncodedRow((), (END,))])
def test_an_empty_answer_and_an_empty_prompt_are_refused(row: EncodedRow) -> None:
    with pytest.raises(ValueError, match="needs a prompt and an answer"):
        training_row(row)
