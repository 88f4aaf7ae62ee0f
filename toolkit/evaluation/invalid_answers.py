"""Statistics of invalid answers: generated texts that are not a label."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolkit.data.example import Example
from toolkit.evaluation.metrics import Predictions

_SHOWN_ANSWERS = 10
_MAX_ANSWER_LENGTH = 60


def invalid_answer_metrics(examples: Sequence[Example], predictions: Predictions) -> dict[str, Any]:
    """Count invalid answers by text and by gold label.

    Returns:
        `invalid_answers`: [[text, rows], ...], the ten most frequent texts, without surrounding whitespace. Ties keep
        the order of the rows. `invalid_by_label`: {gold label: rows}.
    """
    invalid = [row for row, label in enumerate(predictions.predicted) if label is None]
    texts = Counter(predictions.answers[row].strip() for row in invalid)
    by_label = Counter(examples[row].label for row in invalid)
    return {
        "invalid_answers": [[text, count] for text, count in texts.most_common(_SHOWN_ANSWERS)],
        "invalid_by_label": {label: by_label[label] for label in predictions.labels},
    }


def invalid_lines(metrics: dict[str, Any]) -> list[str]:
    """Return lines of text with the share of invalid answers and the most frequent ones, or none if all are labels."""
    if not metrics["invalid"]:
        return []
    lines = [f"\n{metrics['invalid'] / metrics['n']:.1%} of the answers are not a label. The most frequent:"]
    for text, count in metrics["invalid_answers"]:
        shortened = text if len(text) <= _MAX_ANSWER_LENGTH else text[: _MAX_ANSWER_LENGTH - 1] + "…"
        lines.append(f"{count:>8,}  {shortened!r}")
    return lines
