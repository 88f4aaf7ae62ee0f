"""Baselines: they know the training rows alone, and see a hypothesis that gives its label away."""

from toolkit.evaluation.baselines import baseline_accuracies
from toolkit.task import Example

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
