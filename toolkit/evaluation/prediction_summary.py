"""What a report shows of predictions.jsonl, gathered in one pass: however many rows there are, few are held."""

import heapq
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RunError

BINS = 15
"""As for `ece` in metrics.json."""


@dataclass
class ConfidenceBin:
    """Rows whose largest probability lies in one bin: how many, how many of them right, and their confidences' sum."""

    rows: int = 0
    correct: int = 0
    confidence_sum: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of rows whose likeliest label is the gold one."""
        return self.correct / self.rows

    @property
    def confidence(self) -> float:
        """Mean of the largest probability."""
        return self.confidence_sum / self.rows


@dataclass(frozen=True)
class ConfidentError:
    """A wrong answer; `probability` is that of the predicted label."""

    id: str
    premise: str
    hypothesis: str
    label: str
    prediction: str
    probability: float


@dataclass(frozen=True)
class PredictionSummary:
    """Confidence bins of equal width, (0, 1/15], ..., and the most confident errors, the surest first."""

    bins: list[ConfidenceBin] = field(default_factory=lambda: [ConfidenceBin() for _ in range(BINS)])
    errors: list[ConfidentError] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that have probabilities."""
        return sum(one.rows for one in self.bins)

    @property
    def expected_calibration_error(self) -> float:
        """The rows' mean distance between confidence and accuracy; equal to `ece` of metrics.json."""
        gaps = (abs(one.correct - one.confidence_sum) for one in self.bins)
        return sum(gaps) / max(self.rows, 1)


def summarise_predictions(path: Path, errors: int = 20) -> PredictionSummary:
    """Read predictions.jsonl once.

    Args:
        path: the file; rows without probabilities (of free decoding) count for nothing here.
        errors: how many of the most confident errors are kept; of equals, the earlier.

    Raises:
        RunError: a line is no prediction.
    """
    summary = PredictionSummary()
    wrong = heapq.nlargest(errors, _wrong_rows(path, summary.bins), key=lambda one: one[0])
    summary.errors.extend(_error(row, probability) for probability, row in wrong)
    return summary


def _wrong_rows(path: Path, bins: list[ConfidenceBin]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (probability of the prediction, row) of each wrong row, and count every row into `bins` on the way."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                probabilities = row["probabilities"]
                if not probabilities:
                    continue
                likeliest = max(probabilities, key=probabilities.__getitem__)
                confidence, gold, predicted = probabilities[likeliest], row["label"], row["prediction"]
                one = bins[min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)]
                wrong = (probabilities.get(predicted, 0.0), row) if predicted != gold else None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(
                    f"{path}, line {number} is no prediction.", hint="Evaluate again with scripts/eval_generate.py."
                ) from error
            one.rows += 1
            one.correct += likeliest == gold
            one.confidence_sum += confidence
            if wrong:
                yield wrong


def _error(row: dict[str, Any], probability: float) -> ConfidentError:
    texts = {name: str(row.get(name, "")) for name in ("id", "premise", "hypothesis", "label", "prediction")}
    return ConfidentError(**texts, probability=probability)
