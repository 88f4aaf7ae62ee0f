"""Metrics of predictions: accuracy and macro F1 with intervals, per-label metrics, likelihood, top-k, slices."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from toolkit.data.example import Example
from toolkit.evaluation.calibration import label_indices, probability_scores
from toolkit.evaluation.intervals import macro_f1_interval, wilson_interval
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.utils.formatting import join_names

_TOP_K = (3, 5)
_MIN_TOP_K_LABELS = 10  # of fewer labels, five are half of them


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model, in the order of the rows.

    Args:
        labels: The classes, after merging.
        predicted: The predicted label of each row; None for a generated answer that is not a label.
        log_likelihoods: [rows, labels of the task], the log-likelihood of each label's token sequence; None in free
            mode.
        answers: The generated text of each row in free mode, else empty.
        merged: The labels that are measured as one; by default none.
    """

    labels: tuple[str, ...]
    predicted: list[str | None]
    log_likelihoods: np.ndarray | None
    answers: list[str] = field(default_factory=list)
    merged: MergedLabels = MergedLabels((), {})  # noqa: RUF009 - frozen

    @property
    def log_probabilities(self) -> np.ndarray | None:
        """The log-probabilities [rows, labels], normalized over the labels; None in free mode."""
        return None if self.log_likelihoods is None else self.merged.log_probabilities(self.log_likelihoods)


def compute_metrics(examples: Sequence[Example], predictions: Predictions, *, seed: int = 0) -> dict[str, Any]:
    """Compute the metrics that depend only on gold labels and predictions, as fields of metrics.json.

    Args:
        examples: The rows. Rows with the same first input form a group in the bootstrap of `macro_f1_ci95`.
        predictions: The predictions for these rows.
        seed: The seed of the bootstrap.
    """
    labels = list(predictions.labels)
    gold = [example.label for example in examples]
    present = _present_labels(gold, labels)
    # An invalid answer becomes "", which is not in `labels`: it is wrong, but not a false positive of any label.
    predicted = [label or "" for label in predictions.predicted]
    correct = sum(g == p for g, p in zip(gold, predicted, strict=True))
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=labels, zero_division=0.0)
    return {
        "accuracy": correct / len(gold),
        "accuracy_ci95": list(wilson_interval(correct, len(gold))),
        "macro": _average(gold, predicted, present, "macro"),
        **_macro_f1_bootstrap(examples, predicted, labels, seed),
        "weighted": _average(gold, predicted, present, "weighted"),
        "per_label": {
            label: {"precision": p, "recall": r, "f1": f, "support": int(s)}
            for label, p, r, f, s in zip(
                labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True
            )
        },
        "confusion_matrix": confusion_matrix(gold, predicted, labels=labels).tolist(),
        "invalid": sum(label is None for label in predictions.predicted),
        **_likelihood_metrics(gold, predictions),
        **_top_k_metrics(gold, predictions),
        "slices": slice_metrics(examples, predicted, labels),
    }


def _likelihood_metrics(gold: list[str], predictions: Predictions) -> dict[str, Any]:
    """Compute the metrics that need probabilities; in free mode they are all null."""
    log_probs = predictions.log_probabilities
    if log_probs is None:
        return dict.fromkeys(("nll", "ece", "brier", "greedy_vs_likelihood_disagreements"))
    labels = list(predictions.labels)
    # Greedy decoding chooses token by token, the likelihood compares complete labels. The two can differ if labels have
    # several tokens: the most likely first token can belong to a label that is less likely as a whole.
    likeliest = [labels[i] for i in log_probs.argmax(axis=1)]
    return {
        **asdict(probability_scores(log_probs, label_indices(gold, labels))),
        "greedy_vs_likelihood_disagreements": sum(
            decoded != label for decoded, label in zip(predictions.predicted, likeliest, strict=True)
        ),
    }


def _top_k_metrics(gold: list[str], predictions: Predictions) -> dict[str, Any]:
    """Compute the shares of rows whose gold label is among the k most likely ones, if there are many labels."""
    if len(predictions.labels) < _MIN_TOP_K_LABELS:
        return {}
    log_probs = predictions.log_probabilities
    if log_probs is None:
        return {"top_k_accuracy": None}
    # Stable: of equally likely labels, the first one in the recipe comes first, as in `argmax`.
    ranked = np.argsort(-log_probs, axis=1, kind="stable")
    hits = ranked == label_indices(gold, predictions.labels)[:, None]
    return {"top_k_accuracy": {str(k): float(hits[:, :k].any(axis=1).mean()) for k in _TOP_K}}


def _macro_f1_bootstrap(
    examples: Sequence[Example], predicted: list[str], labels: list[str], seed: int
) -> dict[str, Any]:
    group_of = {text: n for n, text in enumerate(dict.fromkeys(example.group for example in examples))}
    groups = np.array([group_of[example.group] for example in examples])
    gold = label_indices([example.label for example in examples], labels)
    predicted_indices = label_indices(predicted, [*labels, ""])  # an invalid answer, "", gets index len(labels)
    interval = macro_f1_interval(gold, predicted_indices, groups, len(labels), seed=seed)
    name = "premise_groups" if tuple(examples[0].inputs) == NLI_INPUTS else "groups"
    return {"macro_f1_ci95": list(interval), name: len(group_of)}


def _present_labels(gold: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the labels that have gold rows. Macro averages are over these, see `intervals.macro_f1`."""
    occurring = set(gold)
    return [label for label in labels if label in occurring]


def absent_label_warnings(gold: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return a warning that names the labels without gold rows, or none."""
    present = _present_labels(gold, labels)
    if not (absent := [label for label in labels if label not in present]):
        return []
    return [
        f"No evaluation row has the label {join_names(absent, 'or')}, so nothing is known about "
        f"{'it' if len(absent) == 1 else 'them'}. Macro averages are over the other {len(present):,} of "
        f"{len(labels):,} labels."
    ]


def _average(gold: list[str], predicted: list[str], labels: list[str], average: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        gold, predicted, labels=labels, average=average, zero_division=0.0
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def slice_metrics(examples: Sequence[Example], predicted: Sequence[str], labels: list[str]) -> dict[str, Any]:
    """Compute the number of rows, accuracy and macro F1 for each value of each column in `Example.slices`.

    As for all rows, the macro F1 of a slice is over the labels that have gold rows in it.
    """
    slices: dict[str, dict[str, Any]] = {}
    # A row without a value in a column is in none of the column's slices.
    for column in dict.fromkeys(column for example in examples for column in example.slices):
        rows_of_value: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            if column in example.slices:
                rows_of_value.setdefault(example.slices[column], []).append(i)
        for value, row_indices in sorted(rows_of_value.items()):
            slice_gold, slice_predicted = [examples[i].label for i in row_indices], [predicted[i] for i in row_indices]
            slices.setdefault(column, {})[value] = {
                "n": len(row_indices),
                "accuracy": float(accuracy_score(slice_gold, slice_predicted)),
                "macro_f1": _average(slice_gold, slice_predicted, _present_labels(slice_gold, labels), "macro")["f1"],
            }
    return slices
