"""Metrics compared with hand-computed cases and with the table of the reference study."""

from dataclasses import replace

import numpy as np
import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.evaluation.intervals import wilson_interval
from toolkit.evaluation.metrics import Predictions, absent_label_warnings, compute_metrics

LABELS = ("entailment", "neutral", "contradiction")


def make_predictions(
    gold: list[str], predicted: list[str | None], probability: float = 0.8
) -> tuple[list[Example], Predictions]:
    """Make rows whose predicted label has `probability`; the other labels share the rest equally."""
    examples = [nli(str(i), "p", "h", label, {"half": "ab"[i % 2]}) for i, label in enumerate(gold)]
    rest = (1 - probability) / 2
    probabilities = [[probability if label == choice else rest for label in LABELS] for choice in predicted]
    # The offset makes the log-likelihoods unnormalized, as those of a model are.
    return examples, Predictions(LABELS, predicted, np.log(probabilities) - 3.0)


def test_metrics_match_the_study() -> None:
    # Counts by gold and predicted label that reproduce the study's recall and precision to four digits.
    counts = {
        "contradiction": {"contradiction": 599, "entailment": 61, "neutral": 170},
        "entailment": {"contradiction": 43, "entailment": 637, "neutral": 150},
        "neutral": {"contradiction": 116, "entailment": 187, "neutral": 527},
    }
    gold = [label for label, row in counts.items() for n in row.values() for _ in range(n)]
    predicted = [label for row in counts.values() for label, n in row.items() for _ in range(n)]
    metrics = compute_metrics(*make_predictions(gold, list(predicted)))
    table = {
        label: [round(row[k], 4) for k in ("precision", "recall", "f1")] for label, row in metrics["per_label"].items()
    }
    assert table == {
        "contradiction": [0.7902, 0.7217, 0.7544],
        "entailment": [0.7198, 0.7675, 0.7429],
        "neutral": [0.6222, 0.6349, 0.6285],
    }
    assert round(metrics["accuracy"], 4) == 0.7080
    assert [round(metrics["macro"][k], 4) for k in ("precision", "recall", "f1")] == [0.7107, 0.7080, 0.7086]
    assert [round(bound, 3) for bound in metrics["accuracy_ci95"]] == [0.690, 0.726]
    assert metrics["confusion_matrix"] == [[637, 150, 43], [187, 527, 116], [61, 170, 599]]


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857), method 3: 81 of 263 gives 0.2553 to 0.3662.
    gold = ["neutral"] * 263
    predicted: list[str | None] = ["neutral"] * 81 + ["entailment"] * 182
    low, high = compute_metrics(*make_predictions(gold, predicted))["accuracy_ci95"]
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert (low, high) == wilson_interval(81, 263)


def test_likelihood_metrics_match_hand_computation() -> None:
    metrics = compute_metrics(*make_predictions(["neutral", "neutral"], ["neutral", "entailment"]))
    assert metrics["nll"] == pytest.approx(-(np.log(0.8) + np.log(0.1)) / 2)
    assert metrics["ece"] == pytest.approx(abs(0.5 - 0.8))
    assert metrics["brier"] == pytest.approx(((0.04 + 0.01 + 0.01) + (0.64 + 0.81 + 0.01)) / 2)
    assert metrics["greedy_vs_likelihood_disagreements"] == 0


def test_invalid_answers_are_wrong_and_counted() -> None:
    metrics = compute_metrics(*make_predictions(["neutral", "neutral"], ["neutral", None]))
    assert (metrics["invalid"], metrics["accuracy"]) == (1, 0.5)


def test_slices_split_rows_by_value() -> None:
    metrics = compute_metrics(*make_predictions(["neutral"] * 4, ["neutral", "entailment"] * 2))
    assert metrics["slices"] == {
        "half": {"a": {"n": 2, "accuracy": 1.0, "macro_f1": 1.0}, "b": {"n": 2, "accuracy": 0.0, "macro_f1": 0.0}}
    }


@pytest.mark.parametrize("gold", [["neutral"] * 6, ["neutral", "entailment"] * 3, list(LABELS) * 2])
def test_perfect_answers_have_macro_f1_of_one(gold: list[str]) -> None:
    examples, predictions = make_predictions(gold, list(gold))
    examples = [replace(example, inputs={**example.inputs, "premise": f"p{i}"}) for i, example in enumerate(examples)]
    metrics = compute_metrics(examples, predictions)
    assert metrics["macro"] == metrics["weighted"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    # A sample of six rows may lack a label, too.
    assert metrics["macro_f1_ci95"] == [1.0, 1.0]
    assert [values["macro_f1"] for values in metrics["slices"]["half"].values()] == [1.0, 1.0]


def test_predictions_of_an_absent_label_are_errors() -> None:
    """One stray prediction costs what any other error costs; the absent label does not become a class with F1 0."""
    gold, stray = ["neutral", "entailment"] * 50, ["neutral", "entailment"] * 49 + ["neutral", "contradiction"]
    other = [*stray[:-1], "neutral"]
    scores = {word: compute_metrics(*make_predictions(gold, list(words)))["macro"] for word, words in
              {"absent": stray, "present": other}.items()}  # fmt: skip
    assert scores["absent"]["recall"] == scores["present"]["recall"] == pytest.approx(0.99)
    assert scores["absent"]["f1"] == pytest.approx((1 + 98 / 99) / 2)


def test_absent_labels_are_named() -> None:
    assert absent_label_warnings(["neutral", "entailment"], ["neutral", "entailment"]) == []
    (warning,) = absent_label_warnings(["neutral"], LABELS)
    assert "has the label entailment or contradiction, so nothing is known about them" in warning
    assert "Macro averages are over the other 1 of 3 labels." in warning
    (warning,) = absent_label_warnings(["0"], [str(i) for i in range(500)])
    assert len(warning) < 400 and "and 470 more" in warning


def test_macro_f1_has_an_interval_over_premises() -> None:
    examples, predictions = make_predictions(
        ["neutral", "entailment", "contradiction"] * 40, ["neutral", "entailment", "neutral"] * 40
    )
    assert compute_metrics(examples, predictions)["premise_groups"] == 1
    assert compute_metrics(examples, predictions)["macro_f1_ci95"] == [0.0, 1.0]
    examples = [
        replace(example, inputs={**example.inputs, "premise": f"p{i // 3}"}) for i, example in enumerate(examples)
    ]
    metrics = compute_metrics(examples, predictions)
    # Every premise has the same three kinds of rows, so all samples are equal.
    assert metrics["premise_groups"] == 40 and metrics["macro_f1_ci95"] == pytest.approx([5 / 9, 5 / 9])
    examples = [replace(example, inputs={**example.inputs, "premise": f"p{i}"}) for i, example in enumerate(examples)]
    low, high = compute_metrics(examples, predictions, seed=1)["macro_f1_ci95"]
    assert low < 5 / 9 - 0.02 and high > 5 / 9 + 0.02
    assert [low, high] == compute_metrics(examples, predictions, seed=1)["macro_f1_ci95"]


def test_top_k_is_reported_for_many_labels() -> None:
    labels = tuple(f"label {i}" for i in range(10))
    gold = [labels[0], labels[2], labels[4], labels[9]]
    examples = [Example(str(i), {"text": f"t{i}"}, label) for i, label in enumerate(gold)]
    # Label 0 is the most likely one of each row, and label 9 the least likely.
    scores = np.tile(-np.arange(10.0), (4, 1))
    metrics = compute_metrics(examples, Predictions(labels, [labels[0]] * 4, scores))
    assert metrics["top_k_accuracy"] == {"3": 0.5, "5": 0.75}
    assert metrics["groups"] == 4 and "premise_groups" not in metrics
    free = compute_metrics(examples, Predictions(labels, [labels[0]] * 4, None, [""] * 4))
    assert free["top_k_accuracy"] is None
    few = [replace(example, label="label 1") for example in examples]
    assert "top_k_accuracy" not in compute_metrics(few, Predictions(labels[:9], ["label 1"] * 4, scores[:, :9]))


def test_equal_scores_rank_in_the_recipes_order() -> None:
    labels = tuple(f"label {i}" for i in range(12))
    examples = [Example(str(i), {"text": "t"}, label) for i, label in enumerate(labels)]
    metrics = compute_metrics(examples, Predictions(labels, ["label 0"] * 12, np.zeros((12, 12))))
    assert metrics["top_k_accuracy"] == {"3": 3 / 12, "5": 5 / 12}
