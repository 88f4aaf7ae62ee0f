"""The agreement of two models on labeled rows: equal predictions, probability differences, margins of disagreements."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from toolkit.data.example import Example
from toolkit.evaluation.intervals import wilson_interval
from toolkit.inference.label_trie import LabelTrie


@dataclass(frozen=True)
class Disagreement:
    """A row for which two models decode different labels.

    `margin` is how strongly the reference preferred its own answer: the difference of its log-probabilities, in nats,
    for the two tokens at which the answers diverge. Rounding can flip a near tie. A clear disagreement means that the
    models differ by more than rounding.
    """

    id: str
    label: str
    reference: str
    model: str
    margin: float
    kind: Literal["near tie", "clear"]


@dataclass(frozen=True)
class Agreement:
    """A model's predictions compared with those of a reference; the differences are of label probabilities."""

    rows: int
    equal: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    mean_difference: float
    largest_difference: float
    disagreements: tuple[Disagreement, ...]

    @property
    def share(self) -> float:
        """The share of rows with equal predictions."""
        return self.equal / self.rows

    @property
    def clear_disagreements(self) -> int:
        """The number of disagreements that are not near ties."""
        return sum(disagreement.kind == "clear" for disagreement in self.disagreements)


def compare_scores(
    examples: Sequence[Example],
    trie: LabelTrie,
    reference: np.ndarray,
    model: np.ndarray,
    *,
    near_tie: float,
    is_correct: Callable[[str, str], bool] = operator.eq,
) -> Agreement:
    """Compare two models' scores of the same rows.

    Args:
        examples: The rows, with their correct labels.
        trie: The labels.
        reference: The reference's log-probabilities as scorers return them: [rows, edges], natural logarithms.
        model: The log-probabilities of the model under test, in the same layout.
        near_tie: The largest margin, in nats, that counts as a near tie.
        is_correct: A function that compares the label of a row with a predicted one, see `MergedLabels.is_correct`.
    """
    reference_labels, model_labels = trie.greedy(reference), trie.greedy(model)
    differences = np.abs(label_probabilities(trie, reference) - label_probabilities(trie, model))
    disagreements = []
    for example, reference_label, model_label, scores in zip(
        examples, reference_labels, model_labels, reference, strict=True
    ):
        if reference_label != model_label:
            # The trie's margin is the reference's at the token where the labels diverge. Totals of whole labels would
            # not do: greedy decoding compares one token at a time, and its label need not have the highest total.
            margin = trie.margin(scores, reference_label, model_label)
            kind: Literal["near tie", "clear"] = "near tie" if margin <= near_tie else "clear"
            disagreements.append(Disagreement(example.id, example.label, reference_label, model_label, margin, kind))
    correct = sum(is_correct(example.label, label) for example, label in zip(examples, model_labels, strict=True))
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
    """Convert edge log-probabilities [rows, edges] to probabilities [rows, labels] that sum to 1 in each row."""

    return softmax(trie.label_log_probs(edge_log_probs), axis=1)
