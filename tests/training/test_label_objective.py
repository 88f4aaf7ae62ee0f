"""The loss over labels: trees and padded rows agree, and they agree with probabilities computed row by row."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_objective import FLOAT32, ROWS, loss_and_gradient, model_with_adapter, relative_error
from toolkit.batching.collators import PaddedCollator, TreeCollator
from toolkit.batching.label_targets import LabelTargets, Objective
from toolkit.training.verification import verify_tree

ONE_TOKEN = ((80, 99), (82, 99), (84, 99))
MANY_TOKENS = ((80, 81, 99), (80, 83, 84, 99), (82, 99))
NO_END = ((80,), (82,), (84,))
HARD = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]] * 3
WEIGHTED = [[2.0, 0, 0], [0.1, 0.8, 0.1], [0, 0.25, 0.5]] * 3


def weighted_rows(weights: list[list[float]]) -> list[dict[str, Any]]:
    return [row | {"label_weights": weight} for row, weight in zip(ROWS, weights, strict=True)]


def expected_gradient(model: Any, rows: list[dict[str, Any]], labels: LabelTargets) -> tuple[float, torch.Tensor]:
    """Compute loss and gradient with one forward pass for each label of each row, from all of the model's logits."""
    losses, total = [], 0.0
    for row in rows:
        scores, weights = [], row["label_weights"]
        for sequence in labels.sequences:
            logits = model(input_ids=torch.tensor([[*row["prompt"], *sequence[:-1]]])).logits[0].float()
            log_probs = logits[len(row["prompt"]) - 1 :].log_softmax(-1)
            scores.append(log_probs[torch.arange(len(sequence)), torch.tensor(sequence)].sum())
        likelihoods = torch.stack(scores)
        if labels.objective == "labels":
            likelihoods = likelihoods.log_softmax(-1)
            total += sum(weights)
        else:
            total += sum(weight * len(sequence) for weight, sequence in zip(weights, labels.sequences, strict=True))
        losses.append(-(likelihoods * torch.tensor(weights)).sum())
    loss = torch.stack(losses).sum() / total
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return loss.item(), gradient


@pytest.mark.parametrize("objective", ["labels", "tokens"])
@pytest.mark.parametrize("sequences", [ONE_TOKEN, MANY_TOKENS, NO_END], ids=["one token", "many tokens", "no end"])
@pytest.mark.parametrize("weights", [HARD, WEIGHTED], ids=["hard", "weighted"])
def test_gradient_equals_separate_sequences(
    tiny_model: Path, make_recipe: Any, objective: Objective, sequences: Any, weights: list[list[float]]
) -> None:
    model = model_with_adapter(tiny_model, make_recipe())
    labels, rows = LabelTargets(sequences, objective), weighted_rows(weights)
    expected_loss, expected = expected_gradient(model, rows, labels)
    steps = [PaddedCollator(size, "completion", labels)(rows) for size in (1, 4, 9)]
    steps += [TreeCollator(nodes, "completion", labels=labels)(rows) for nodes in (1, 60, 10_000)]
    steps += [TreeCollator(10_000, "completion", 16, "dense", labels=labels)(rows)]
    for step in steps:
        loss, actual = loss_and_gradient(model, step)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative_error(actual, expected) < 1e-5


def test_one_hot_weights_equal_plain_rows(tiny_model: Path, make_recipe: Any) -> None:
    model = model_with_adapter(tiny_model, make_recipe())
    # Labels in the order of the answers of ROWS, of which every third row has the same.
    labels = LabelTargets(((80, 81, 99), (82, 99), (80, 83, 84, 99)), "tokens")
    for loss_on in ("completion", "full_text"):
        expected_loss, expected = loss_and_gradient(model, PaddedCollator(9, loss_on)(ROWS))
        for collator in (PaddedCollator(9, loss_on, labels), TreeCollator(10_000, loss_on, labels=labels)):
            loss, actual = loss_and_gradient(model, collator(weighted_rows(HARD)))
            assert loss == pytest.approx(expected_loss, rel=1e-5) and relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("objective", ["labels", "tokens"])
def test_verification_compares_labels(tiny_model: Path, make_recipe: Any, objective: Objective) -> None:
    model, labels = model_with_adapter(tiny_model, make_recipe()), LabelTargets(MANY_TOKENS, objective)
    verification = verify_tree(model, weighted_rows(WEIGHTED), "completion", FLOAT32, labels=labels)
    assert verification.passed and verification.gradient_difference is not None
    assert 0 < verification.gradient_difference < 1e-5
