"""The weights of labels in the loss: smoothing, class weights and soft labels, compared with scikit-learn and torch."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from toolkit.data.example import Example
from toolkit.data.target_weights import resolve_class_weights, target_weights

LABELS = ("entailment", "neutral", "contradiction")


def example(label: str, soft_label: tuple[float, ...] | None = None) -> Example:
    return Example("1", {"premise": "a", "hypothesis": "b"}, label, soft_label=soft_label)


ROWS = [example(label) for label in ("entailment", "neutral", "neutral", "neutral", "contradiction", "neutral")]
INDICES = [LABELS.index(row.label) for row in ROWS]


def test_plain_rows_have_no_weights(make_recipe: Any) -> None:
    assert target_weights(make_recipe(), ROWS) is None
    always = target_weights(make_recipe(), ROWS, always=True)
    assert always is not None and always.tolist() == np.eye(3)[INDICES].tolist()


def test_balanced_weights_equal_scikit_learn(make_recipe: Any) -> None:
    recipe = make_recipe("training.class_weights=balanced")
    expected = compute_class_weight("balanced", classes=np.array(LABELS), y=np.array([row.label for row in ROWS]))
    assert resolve_class_weights(recipe, ROWS) == pytest.approx(expected)
    weights = target_weights(recipe, ROWS)
    assert weights is not None
    assert weights.sum(axis=0) == pytest.approx([2, 2, 2]) and weights.sum() == pytest.approx(len(ROWS))


def test_soft_labels_are_counted_by_probability(make_recipe: Any) -> None:
    rows = [example("neutral", (0.25, 0.75, 0.0)), example("contradiction", (0.0, 0.25, 0.75))]
    weights = resolve_class_weights(make_recipe("training.class_weights=balanced"), rows)
    assert weights == pytest.approx([2 / (3 * 0.25), 2 / 3, 2 / (3 * 0.75)])
    plain = target_weights(make_recipe(), rows)
    assert plain is not None and plain.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.25, 0.75]]


def test_smoothing_equals_torch(make_recipe: Any) -> None:
    logits = torch.randn(len(ROWS), 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    weights = target_weights(make_recipe("training.label_smoothing=0.2"), ROWS)
    assert weights is not None
    actual = -(torch.from_numpy(weights) * logits.log_softmax(-1)).sum()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(INDICES), reduction="sum", label_smoothing=0.2)
    assert actual.item() == pytest.approx(expected.item())


def test_class_weights_scale_whole_rows(make_recipe: Any) -> None:
    recipe = make_recipe("training.class_weights={neutral: 3}", "training.label_smoothing=0.3")
    weights = target_weights(recipe, ROWS)
    assert weights is not None
    assert weights.sum(axis=1) == pytest.approx([3 if row.label == "neutral" else 1 for row in ROWS])
    assert weights[1] == pytest.approx([0.3, 2.4, 0.3])
