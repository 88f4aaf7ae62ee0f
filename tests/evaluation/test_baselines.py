"""Baselines: they are fitted on training rows only, and detect hypotheses that reveal their label."""

import json
from pathlib import Path

import pytest
from scipy.stats import binom

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings

LABELS = ("entailment", "neutral", "contradiction")


def test_hypothesis_only_finds_revealing_words() -> None:
    clue_of = {"entailment": "oui", "neutral": "peut-être", "contradiction": "jamais"}
    train = [nli(str(i), "p", f"mot{i} {clue_of[LABELS[i % 3]]}", LABELS[i % 3]) for i in range(60)]
    evaluation = [nli(str(i), "p", f"autre{i} {clue_of[LABELS[i % 3]]}", LABELS[i % 3]) for i in range(30)]
    accuracies = baseline_accuracies(train, evaluation, LABELS)
    assert accuracies["hypothesis_only"] == 1.0
    assert accuracies["random"] == 1 / 3


def test_majority_comes_from_training_rows() -> None:
    train = [
        nli("1", "p", "a b", "neutral"),
        nli("2", "p", "c d", "neutral"),
        nli("3", "p", "e f", "entailment"),
    ]
    evaluation = [nli("1", "p", "a b", "entailment")] * 3 + [nli("2", "p", "c d", "neutral")]
    assert baseline_accuracies(train, evaluation, LABELS)["majority"] == 0.25


def test_premise_words_need_the_premise() -> None:
    """A label that only the premise reveals is found by `premise_hypothesis` and not by `hypothesis_only`."""
    clue_of = {"entailment": "oui", "neutral": "peut-être", "contradiction": "jamais"}
    rows = [nli(str(i), f"mot{i} {clue_of[LABELS[i % 3]]}", "même texte", LABELS[i % 3]) for i in range(90)]
    accuracies = baseline_accuracies(rows[:60], rows[60:], LABELS)
    assert accuracies["premise_hypothesis"] == 1.0
    assert accuracies["hypothesis_only"] == pytest.approx(1 / 3)


def test_premise_and_hypothesis_have_separate_features() -> None:
    words = ["oui", "non"]
    # Every row contains both words. The label depends only on which of them is in the premise.
    rows = [nli(str(i), words[i % 2], words[1 - i % 2], LABELS[i % 2]) for i in range(40)]
    assert baseline_accuracies(rows[:20], rows[20:], LABELS)["premise_hypothesis"] == 1.0


def evaluation_rows(count: int, majority: float = 1 / 3) -> list[Example]:
    majority_count = round(majority * count)
    return [nli(str(i), "p", "h", LABELS[0] if i < majority_count else LABELS[1 + i % 2]) for i in range(count)]


def test_chance_level_scores_give_no_warning() -> None:
    rows = evaluation_rows(600)
    for score in (0.25, 1 / 3, 0.36):
        assert data_warnings({"hypothesis_only": score}, rows) == []
    assert data_warnings({}, rows) == []
    # The share of the majority class explains the score.
    assert data_warnings({"hypothesis_only": 0.6}, evaluation_rows(600, majority=0.58)) == []
    # On few rows, luck explains the score.
    assert data_warnings({"hypothesis_only": 0.5}, evaluation_rows(24)) == []


def test_warning_starts_at_significance_level() -> None:
    """The warning starts at the smallest score that luck reaches in fewer than one in a thousand samples."""
    rows = evaluation_rows(2490)
    smallest = next(n for n in range(830, 2490) if binom.sf(n - 1, 2490, 1 / 3) < 0.001)
    assert round(smallest / 2490, 3) == 0.363
    assert data_warnings({"hypothesis_only": (smallest - 1) / 2490}, rows) == []
    (warning,) = data_warnings({"hypothesis_only": smallest / 2490}, rows)
    assert "36.3% [34.4%, 38.2%] of 2,490 rows" in warning and "33.3%" in warning


def test_xnli_hypotheses_reveal_labels(shared: Path) -> None:
    def load(name: str) -> list[Example]:
        lines = (shared / "data" / "xnli_fr" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [nli(**json.loads(line)) for line in lines]

    evaluation = load("test")
    accuracies = baseline_accuracies(load("train"), evaluation, LABELS)
    assert accuracies["hypothesis_only"] == pytest.approx(0.5185, abs=0.005)
    assert accuracies["premise_hypothesis"] == pytest.approx(0.5165, abs=0.005)
    assert len(data_warnings(accuracies, evaluation)) == 1


def test_poor_answers_give_warnings() -> None:
    """Warnings appear if all answers are the same or a bag-of-words classifier is clearly better."""
    rows = evaluation_rows(9)
    gold = [row.label for row in rows]
    assert answer_warnings(gold, rows, {"hypothesis_only": 0.9}) == []
    (same_answer,) = answer_warnings(["neutral"] * 9, rows, {})
    assert same_answer.startswith("Every row gets the same answer (neutral)")
    assert answer_warnings(["neutral"] * 3, [row for row in rows if row.label == "neutral"], {}) == []
    worse = [LABELS[0] if label == LABELS[1] else label for label in gold]
    assert answer_warnings(worse, rows, {"premise_hypothesis": 0.8}) == [], "nine rows are too few"
    (bag_of_words,) = answer_warnings(worse, rows, {"random": 1 / 3, "premise_hypothesis": 0.95})
    assert bag_of_words.startswith(
        "A linear bag-of-words classifier is right on 95.0% of the rows, this model on only 66.7% ["
    )
