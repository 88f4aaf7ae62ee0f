"""Figures about predictions: accuracy with its interval, class metrics, likelihood, calibration, slices."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from toolkit.task import Example

_ECE_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a model said about rows, in their order.

    Args:
        labels: the classes.
        predicted: the decoded label of each row; None where a free answer was none.
        log_likelihoods: [rows, labels], of each label's whole token sequence; None in free mode, which has none.
        answers: what the model wrote, row by row, in free mode.
    """

    labels: tuple[str, ...]
    predicted: list[str | None]
    log_likelihoods: np.ndarray | None
    answers: list[str] = field(default_factory=list)

    @property
    def log_probabilities(self) -> np.ndarray | None:
        """[rows, labels], normalised over the labels; None in free mode."""
        return None if self.log_likelihoods is None else log_softmax(self.log_likelihoods, axis=1)


def compute_metrics(examples: Sequence[Example], predictions: Predictions) -> dict[str, Any]:
    """The figures of metrics.json that follow from gold labels and predictions alone."""
    labels = list(predictions.labels)
    gold = [example.label for example in examples]
    predicted = [label or "" for label in predictions.predicted]  # "" is no label: wrong, and in no label's column
    correct = sum(g == p for g, p in zip(gold, predicted, strict=True))
    interval = binomtest(correct, len(gold)).proportion_ci(confidence_level=0.95, method="wilson")
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=labels, zero_division=0.0)
    return {
        "accuracy": correct / len(gold),
        "accuracy_ci95": [float(interval.low), float(interval.high)],
        "macro": _average(gold, predicted, labels, "macro"),
        "weighted": _average(gold, predicted, labels, "weighted"),
        "per_label": {
            label: {"precision": p, "recall": r, "f1": f, "support": int(s)}
            for label, p, r, f, s in zip(
                labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True
            )
        },
        "confusion_matrix": confusion_matrix(gold, predicted, labels=labels).tolist(),
        "invalid": sum(label is None for label in predictions.predicted),
        **_likelihood_figures(gold, predictions),
        "slices": slice_metrics(examples, predicted, labels),
    }


def _likelihood_figures(gold: list[str], predictions: Predictions) -> dict[str, Any]:
    """What follows from probabilities; free mode has none, so all are null there."""
    log_probs = predictions.log_probabilities
    if log_probs is None:
        return {"nll": None, "ece": None, "greedy_vs_likelihood_disagreements": None}
    labels = list(predictions.labels)
    gold_index = np.array([labels.index(label) for label in gold])
    likeliest = [labels[i] for i in log_probs.argmax(axis=1)]
    return {
        "nll": float(-log_probs[np.arange(len(gold)), gold_index].mean()),
        "ece": expected_calibration_error(np.exp(log_probs), gold_index),
        "greedy_vs_likelihood_disagreements": sum(
            a != b for a, b in zip(predictions.predicted, likeliest, strict=True)
        ),
    }


def _average(gold: list[str], predicted: list[str], labels: list[str], average: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        gold, predicted, labels=labels, average=average, zero_division=0.0
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def expected_calibration_error(probabilities: np.ndarray, gold: np.ndarray, bins: int = _ECE_BINS) -> float:
    """Expected calibration error (Naeini et al. 2015, Guo et al. 2017, arXiv 1706.04599).

    The mean distance between confidence and accuracy over `bins` bins of equal width, (0, 1/bins], ..., weighted by
    the rows in them.

    Args:
        probabilities: [rows, labels].
        gold: [rows], indices of the true labels.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == gold
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        abs(correct[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))


def slice_metrics(examples: Sequence[Example], predicted: Sequence[str], labels: list[str]) -> dict[str, Any]:
    """Rows, accuracy and macro F1 for each value of each column in `Example.slices`."""
    slices: dict[str, dict[str, Any]] = {}
    for column in examples[0].slices:
        values = np.array([example.slices[column] for example in examples])
        for value in sorted(set(values)):
            chosen = np.flatnonzero(values == value).tolist()
            gold, said = [examples[i].label for i in chosen], [predicted[i] for i in chosen]
            slices.setdefault(column, {})[str(value)] = {
                "n": len(chosen),
                "accuracy": float(accuracy_score(gold, said)),
                "macro_f1": float(f1_score(gold, said, labels=labels, average="macro", zero_division=0.0)),
            }
    return slices
