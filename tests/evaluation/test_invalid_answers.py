"""Invalid answers: they count as wrong, are counted by gold label, and the ten most frequent are shown."""

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.evaluation.invalid_answers import invalid_answer_metrics, invalid_lines
from toolkit.evaluation.metrics import Predictions, compute_metrics


def example(label: str) -> Example:
    return nli("1", "p", "h", label)


def test_invalid_answers_are_wrong() -> None:
    """An invalid answer counts as wrong and is in no label's column of the confusion matrix."""
    examples = [example(label) for label in "aabbb"]
    predictions = Predictions(("a", "b"), ["a", None, None, "a", None], None, ["a", "c'est a", "non ", "a", " non"])
    metrics = compute_metrics(examples, predictions) | invalid_answer_metrics(examples, predictions)
    assert metrics["accuracy"] == 1 / 5 and metrics["invalid"] == 3
    assert metrics["confusion_matrix"] == [[1, 0], [1, 0]] and metrics["invalid_by_label"] == {"a": 1, "b": 2}
    assert metrics["invalid_answers"] == [["non", 2], ["c'est a", 1]]
    assert metrics["nll"] is metrics["ece"] is metrics["greedy_vs_likelihood_disagreements"] is None
    lines = invalid_lines({**metrics, "n": 5})
    assert "60.0% of the answers are not a label" in lines[0] and "'non'" in lines[1]


def test_ten_most_frequent_answers_are_kept() -> None:
    answers = [f"answer {i}" for i in range(30) for _ in range(i)]
    examples = [example("a")] * len(answers)
    metrics = invalid_answer_metrics(examples, Predictions(("a",), [None] * len(answers), None, answers))
    assert metrics["invalid_answers"] == [[f"answer {i}", i] for i in range(29, 19, -1)]


def test_valid_answers_show_nothing() -> None:
    metrics = invalid_answer_metrics([example("a")], Predictions(("a",), ["a"], None, ["a"]))
    assert metrics == {"invalid_answers": [], "invalid_by_label": {"a": 0}}
    assert invalid_lines({"invalid": 0, **metrics}) == []
