"""Label targets: the probabilities of labels, and the sequences and predictions that rows need for them."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from toolkit.batching.collators import PaddedCollator, TreeCollator
from toolkit.batching.label_targets import LabelTargets, count_contexts, limit_labels, log_label_probabilities

END = 9
SEQUENCES = ((5, 6, END), (5, 7, END), (8, END))
ROWS: list[dict[str, Any]] = [
    {"prompt": [1, 2, 3], "answer": [5, 6, END], "label_weights": [1.0, 0.0, 0.0]},
    {"prompt": [1, 2, 4, 4], "answer": [8, END], "label_weights": [0.0, 0.5, 1.5]},
]
LABELS, TOKENS = LabelTargets(SEQUENCES, "labels"), LabelTargets(SEQUENCES, "tokens")


def test_probabilities_are_those_of_whole_sequences() -> None:
    (micro_batch,) = PaddedCollator(2, "completion", LABELS)(ROWS)["micro_batches"]
    logits = torch.randn(len(micro_batch["nodes"]), 10, generator=torch.Generator().manual_seed(0))
    actual = log_label_probabilities(logits, micro_batch)
    tokens = log_softmax(logits.double().numpy(), axis=1)
    # Padded rows have a position for each token of each label of each row, in this order.
    position, expected = 0, np.zeros((len(ROWS), len(SEQUENCES)))
    for row in range(len(ROWS)):
        for label, sequence in enumerate(SEQUENCES):
            expected[row, label] = sum(tokens[position + i, token] for i, token in enumerate(sequence))
            position += len(sequence)
    np.testing.assert_allclose(actual.numpy(), log_softmax(expected, axis=1), atol=1e-5)


@pytest.mark.parametrize(("labels", "nodes"), [(LABELS, 2 + 1 + 4 + 1 + 1 + 4), (TOKENS, 2 + 1 + 2 + 2 + 3)])
def test_trees_share_label_prefixes(labels: LabelTargets, nodes: int) -> None:
    """The labels of a row share its prompt, and two of them also share their first token."""
    (micro_batch,) = TreeCollator(100, "completion", labels=labels)(ROWS)["micro_batches"]
    assert micro_batch["input_ids"].shape == (1, nodes)
    assert [count_contexts(row, LABELS) for row in ROWS] == [5, 5]
    assert [count_contexts(row, TOKENS) for row in ROWS] == [3, 4]


def test_head_computes_shared_nodes_once() -> None:
    (tree,) = TreeCollator(100, "completion", labels=LABELS)(ROWS)["micro_batches"]
    (padded,) = PaddedCollator(2, "completion", LABELS)(ROWS)["micro_batches"]
    assert len(tree["nodes"]) == 2 * 5 and len(padded["nodes"]) == 2 * 8
    assert tree["targets"].tolist() == padded["targets"].tolist() == 2 * [5, 6, END, 5, 7, END, 8, END]


@pytest.mark.parametrize("labels", [LABELS, TOKENS])
def test_predictions_are_the_total_weight(labels: LabelTargets) -> None:
    expected = {"labels": 3.0, "tokens": 3 * 1.0 + 3 * 0.5 + 2 * 1.5}[labels.objective]
    for collator in (PaddedCollator(1, "completion", labels), TreeCollator(4, "completion", labels=labels)):
        step = collator(ROWS)
        assert len(step["micro_batches"]) == 2 and step["predictions"].tolist() == [expected]


def test_full_text_weights_prompts_by_row() -> None:
    (micro_batch,) = TreeCollator(100, "full_text", labels=TOKENS)(ROWS)["micro_batches"]
    weights = dict(zip(zip(micro_batch["nodes"].tolist(), micro_batch["targets"].tolist(), strict=True),
                       micro_batch["weights"].tolist(), strict=True))  # fmt: skip
    assert weights[0, 2] == 3.0  # both rows continue with 2, with the weights 1 and 0.5 + 1.5
    assert micro_batch["weights"].sum() == 2 * 1.0 + 3 * 2.0 + 7.5


def test_limited_labels_keep_the_most_used() -> None:
    rows, labels = limit_labels(ROWS, LABELS, 2)
    assert labels.sequences == (SEQUENCES[0], SEQUENCES[2]) and labels.objective == "labels"
    assert [row["label_weights"] for row in rows] == [[1.0, 0.0], [0.0, 1.5]]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert limit_labels(ROWS, LABELS, 9)[1] == LABELS
