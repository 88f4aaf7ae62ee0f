"""Metrics against cases that can be worked by hand, and against the reference study's table."""

from dataclasses import replace

import numpy as np
import pytest

from toolkit.data.example import Example
from toolkit.evaluation.intervals import wilson_interval
from toolkit.evaluation.metrics import Predictions, compute_metrics

LABELS = ("entailment", "neutral", "contradiction")


def predictions(
    gold: list[str], predicted: list[str | None], probability: float = 0.8
) -> tuple[list[Example], Predictions]:
    """Rows whose predicted label has `probability` and the other labels equal shares."""
    examples = [Example(str(i), "p", "h", label, {"half": "ab"[i % 2]}) for i, label in enumerate(gold)]
    rest = (1 - probability) / 2
    shares = [[probability if label == said else rest for label in LABELS] for said in predicted]
    return examples, Predictions(LABELS, predicted, np.log(shares) - 3.0)


def test_the_studys_table_follows_from_its_confusion_counts() -> None:
    # Rows gold, columns predicted; they give the study's recalls and precisions to four digits.
    counts = {
        "contradiction": {"contradiction": 599, "entailment": 61, "neutral": 170},
        "entailment": {"contradiction": 43, "entailment": 637, "neutral": 150},
        "neutral": {"contradiction": 116, "entailment": 187, "neutral": 527},
    }
    gold = [label for label, row in counts.items() for said, n in row.items() for _ in range(n)]
    said = [said for row in counts.values() for said, n in row.items() for _ in range(n)]
    metrics = compute_metrics(*predictions(gold, list(said)))
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


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857), method 3: 81 of 263 gives 0.2553 to 0.3662.
    gold = ["neutral"] * 263
    said: list[str | None] = ["neutral"] * 81 + ["entailment"] * 182
    low, high = compute_metrics(*predictions(gold, said))["accuracy_ci95"]
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert (low, high) == wilson_interval(81, 263)


def test_likelihood_and_calibration_of_a_case_worked_by_hand() -> None:
    metrics = compute_metrics(*predictions(["neutral", "neutral"], ["neutral", "entailment"]))
    assert metrics["nll"] == pytest.approx(-(np.log(0.8) + np.log(0.1)) / 2)
    assert metrics["ece"] == pytest.approx(abs(0.5 - 0.8))
    assert metrics["brier"] == pytest.approx(((0.04 + 0.01 + 0.01) + (0.64 + 0.81 + 0.01)) / 2)
    assert metrics["greedy_vs_likelihood_disagreements"] == 0


def test_an_invalid_answer_is_wrong_and_counted() -> None:
    metrics = compute_metrics(*predictions(["neutral", "neutral"], ["neutral", None]))
    assert (metrics["invalid"], metrics["accuracy"]) == (1, 0.5)


def test_slices_split_the_rows_by_value() -> None:
    metrics = compute_metrics(*predictions(["neutral"] * 4, ["neutral", "entailment"] * 2))
    assert metrics["slices"] == {
        "half": {"a": {"n": 2, "accuracy": 1.0, "macro_f1": 1 / 3}, "b": {"n": 2, "accuracy": 0.0, "macro_f1": 0.0}}
    }


def test_macro_f1_has_an_interval_over_premises() -> None:
    examples, said = predictions(
        ["neutral", "entailment", "contradiction"] * 40, ["neutral", "entailment", "neutral"] * 40
    )
    assert compute_metrics(examples, said)["premise_groups"] == 1
    assert compute_metrics(examples, said)["macro_f1_ci95"] == [0.0, 1.0]
    examples = [replace(example, premise=f"p{i // 3}") for i, example in enumerate(examples)]
    metrics = compute_metrics(examples, said)
    # Every premise has the same three rows, so there is nothing to vary.
    assert metrics["premise_groups"] == 40 and metrics["macro_f1_ci95"] == pytest.approx([5 / 9, 5 / 9])
    examples = [replace(example, premise=f"p{i}") for i, example in enumerate(examples)]
    low, high = compute_metrics(examples, said, seed=1)["macro_f1_ci95"]
    assert low < 5 / 9 - 0.02 and high > 5 / 9 + 0.02
    assert [low, high] == compute_metrics(examples, said, seed=1)["macro_f1_ci95"]
