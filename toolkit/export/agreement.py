"""How far two models agree on labelled rows: predictions, probabilities, and how near a tie each disagreement was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from toolkit.data.example import Example
from toolkit.evaluation.intervals import wilson_interval
from toolkit.inference.label_trie import LabelTrie


@dataclass(frozen=True)
class Disagreement:
    """One row that two models decode differently.

    `margin` tells how much likelier, in nats, the reference found the token with which the two answers part. Rounding
    turns a near tie; a clear margin is turned by nothing but another model.
    """

    id: str
    label: str
    reference: str
    model: str
    margin: float
    kind: Literal["near tie", "clear"]


@dataclass(frozen=True)
class Agreement:
    """What a model does on rows beside a reference; differences are of label probabilities."""

    rows: int
    equal: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    mean_difference: float
    largest_difference: float
    disagreements: tuple[Disagreement, ...]

    @property
    def share(self) -> float:
        """Of the rows, those with equal predictions."""
        return self.equal / self.rows

    @property
    def clear_disagreements(self) -> int:
        """How many disagreements are no near ties."""
        return sum(disagreement.kind == "clear" for disagreement in self.disagreements)


def compare_scores(
    examples: Sequence[Example], trie: LabelTrie, reference: np.ndarray, model: np.ndarray, *, near_tie: float
) -> Agreement:
    """Compare two models' scores of the same rows.

    Args:
        examples: the rows.
        trie: the labels.
        reference: [rows, edges], natural logarithms, as scorers give them.
        model: the same of the other model.
        near_tie: the largest margin, in nats, that counts as a near tie.
    """
    reference_labels, model_labels = trie.greedy(reference), trie.greedy(model)
    differences = np.abs(label_probabilities(trie, reference) - label_probabilities(trie, model))
    disagreements = []
    for example, reference_label, model_label, scores in zip(
        examples, reference_labels, model_labels, reference, strict=True
    ):
        if reference_label != model_label:
            margin = trie.margin(scores, reference_label, model_label)
            kind: Literal["near tie", "clear"] = "near tie" if margin <= near_tie else "clear"
            disagreements.append(Disagreement(example.id, example.label, reference_label, model_label, margin, kind))
    correct = sum(example.label == label for example, label in zip(examples, model_labels, strict=True))
    return Agreement(
        rows=len(examples),
        equal=len(examples) - len(disagreements),
        accuracy=correct / len(examples),
        accuracy_ci95=wilson_interval(correct, len(examples)),
        mean_difference=float(differences.mean()),
        largest_difference=float(differences.max()),
        disagreements=tuple(disagreements),
    )


def label_probabilities(trie: LabelTrie, edge_log_probs: np.ndarray) -> np.ndarray:
    """[rows, labels], normalised over the labels, from [rows, edges]."""
    return softmax(trie.label_log_probs(edge_log_probs), axis=1)
