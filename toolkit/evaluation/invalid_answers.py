"""Free answers that are no label: how many, of which gold labels, and what they were."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolkit.data.example import Example
from toolkit.evaluation.metrics import Predictions

_SHOWN_ANSWERS = 10
_MAX_ANSWER_LENGTH = 60


def invalid_answer_metrics(examples: Sequence[Example], predictions: Predictions) -> dict[str, Any]:
    """`invalid_answers` [[text, rows], ...], the ten most frequent, and `invalid_by_label` {gold label: rows}.

    Texts are compared without white space around them; of equally frequent ones the first stands first.
    """
    invalid = [row for row, label in enumerate(predictions.predicted) if label is None]
    texts = Counter(predictions.answers[row].strip() for row in invalid)
    by_label = Counter(examples[row].label for row in invalid)
    return {
        "invalid_answers": [[text, count] for text, count in texts.most_common(_SHOWN_ANSWERS)],
        "invalid_by_label": {label: by_label[label] for label in predictions.labels},
    }


def invalid_lines(metrics: dict[str, Any]) -> list[str]:
    """The share of invalid answers and the most frequent ones, for a terminal; nothing where all were labels."""
    if not metrics["invalid"]:
        return []
    lines = [f"\n{metrics['invalid'] / metrics['n']:.1%} of the answers are no label; the most frequent:"]
    for text, count in metrics["invalid_answers"]:
        shortened = text if len(text) <= _MAX_ANSWER_LENGTH else text[: _MAX_ANSWER_LENGTH - 1] + "…"
        lines.append(f"{count:>8,}  {shortened!r}")
    return lines
