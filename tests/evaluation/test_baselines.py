"""Baselines: they know the training rows alone, and see a hypothesis that gives its label away."""

import json
from pathlib import Path

import pytest
from scipy.stats import binom

from toolkit.data.example import Example
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings

LABELS = ("entailment", "neutral", "contradiction")


def test_a_word_that_gives_the_label_away_is_found_without_the_premise() -> None:
    tell = {"entailment": "oui", "neutral": "peut-être", "contradiction": "jamais"}
    train = [Example(str(i), "p", f"mot{i} {tell[LABELS[i % 3]]}", LABELS[i % 3]) for i in range(60)]
    evaluation = [Example(str(i), "p", f"autre{i} {tell[LABELS[i % 3]]}", LABELS[i % 3]) for i in range(30)]
    accuracies = baseline_accuracies(train, evaluation, LABELS)
    assert accuracies["hypothesis_only"] == 1.0
    assert accuracies["random"] == 1 / 3


def test_majority_is_the_training_rows_majority() -> None:
    train = [
        Example("1", "p", "a b", "neutral"),
        Example("2", "p", "c d", "neutral"),
        Example("3", "p", "e f", "entailment"),
    ]
    evaluation = [Example("1", "p", "a b", "entailment")] * 3 + [Example("2", "p", "c d", "neutral")]
    assert baseline_accuracies(train, evaluation, LABELS)["majority"] == 0.25


def test_a_word_of_the_premise_is_seen_only_with_the_premise() -> None:
    tell = {"entailment": "oui", "neutral": "peut-être", "contradiction": "jamais"}
    rows = [Example(str(i), f"mot{i} {tell[LABELS[i % 3]]}", "même texte", LABELS[i % 3]) for i in range(90)]
    accuracies = baseline_accuracies(rows[:60], rows[60:], LABELS)
    assert accuracies["premise_hypothesis"] == 1.0
    assert accuracies["hypothesis_only"] == pytest.approx(1 / 3)


def test_a_word_says_something_else_in_the_premise_than_in_the_hypothesis() -> None:
    words = ["oui", "non"]
    # Both words stand in every row: only who says which tells the label.
    rows = [Example(str(i), words[i % 2], words[1 - i % 2], LABELS[i % 2]) for i in range(40)]
    assert baseline_accuracies(rows[:20], rows[20:], LABELS)["premise_hypothesis"] == 1.0


def evaluation_rows(count: int, majority: float = 1 / 3) -> list[Example]:
    common = round(majority * count)
    return [Example(str(i), "p", "h", LABELS[0] if i < common else LABELS[1 + i % 2]) for i in range(count)]


def test_a_hypothesis_only_score_that_chance_explains_is_no_warning() -> None:
    rows = evaluation_rows(600)
    for score in (0.25, 1 / 3, 0.36):
        assert data_warnings({"hypothesis_only": score}, rows) == []
    assert data_warnings({}, rows) == []
    # The commonest label explains it.
    assert data_warnings({"hypothesis_only": 0.6}, evaluation_rows(600, majority=0.58)) == []
    # Few rows may do so by luck.
    assert data_warnings({"hypothesis_only": 0.5}, evaluation_rows(24)) == []


def test_a_hypothesis_only_score_warns_where_luck_reaches_it_less_than_once_in_a_thousand() -> None:
    rows = evaluation_rows(2490)
    smallest = next(n for n in range(830, 2490) if binom.sf(n - 1, 2490, 1 / 3) < 0.001)
    assert round(smallest / 2490, 3) == 0.363
    assert data_warnings({"hypothesis_only": (smallest - 1) / 2490}, rows) == []
    (warning,) = data_warnings({"hypothesis_only": smallest / 2490}, rows)
    assert "36.3% [34.4%, 38.2%] of 2,490 rows" in warning and "33.3%" in warning


def test_hypotheses_of_xnli_in_french_give_their_label_away(shared: Path) -> None:
    def load(name: str) -> list[Example]:
        lines = (shared / "data" / "xnli_fr" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [Example(**json.loads(line)) for line in lines]

    evaluation = load("test")
    accuracies = baseline_accuracies(load("train"), evaluation, LABELS)
    assert accuracies["hypothesis_only"] == pytest.approx(0.5185, abs=0.005)
    assert accuracies["premise_hypothesis"] == pytest.approx(0.5165, abs=0.005)
    assert len(data_warnings(accuracies, evaluation)) == 1


def test_answers_that_tell_nothing_apart_or_less_than_words_do_are_told() -> None:
    rows = evaluation_rows(9)
    gold = [row.label for row in rows]
    assert answer_warnings(gold, rows, {"hypothesis_only": 0.9}) == []
    (alike,) = answer_warnings(["neutral"] * 9, rows, {})
    assert alike.startswith("Every row is answered alike (neutral)")
    assert answer_warnings(["neutral"] * 3, [row for row in rows if row.label == "neutral"], {}) == []
    worse = [LABELS[0] if label == LABELS[1] else label for label in gold]
    assert answer_warnings(worse, rows, {"premise_hypothesis": 0.8}) == [], "so few rows do not tell"
    (words,) = answer_warnings(worse, rows, {"random": 1 / 3, "premise_hypothesis": 0.95})
    assert words.startswith("A linear classifier of words alone is right in 95.0% of the rows, this model in 66.7% [")
