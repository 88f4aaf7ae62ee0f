"""What a report shows of predictions.jsonl, gathered in one pass: however many rows there are, few are held."""

import heapq
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import RunError
from toolkit.evaluation.calibration import ReliabilityBins, bin_confidences


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
    """Rows by their confidence, and the most confident errors, the surest first.

    Args:
        bins: as for `ece` in metrics.json; None where no row has probabilities.
    """

    bins: ReliabilityBins | None = None
    errors: list[ConfidentError] = field(default_factory=list)


@dataclass(frozen=True)
class _Confidences:
    """Of each row: the likeliest label's probability, and whether that label is the true one."""

    confidence: "array[float]" = field(default_factory=lambda: array("d"))
    correct: "array[int]" = field(default_factory=lambda: array("b"))


def summarize_predictions(path: Path, errors: int = 20) -> PredictionSummary:
    """Read predictions.jsonl once; nine bytes of each row stay in memory.

    Args:
        path: the file; rows without probabilities (of free decoding) count for nothing here.
        errors: how many of the most confident errors are kept; of equals, the earlier.

    Raises:
        RunError: a line is no prediction.
    """
    confidences = _Confidences()
    wrong_rows = heapq.nlargest(errors, _wrong_rows(path, confidences), key=lambda wrong_row: wrong_row[0])
    bins = (
        bin_confidences(np.array(confidences.confidence), np.array(confidences.correct))
        if confidences.correct
        else None
    )
    return PredictionSummary(bins, [_confident_error(row, probability) for probability, row in wrong_rows])


def _wrong_rows(path: Path, confidences: _Confidences) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (probability of the prediction, row) of each wrong row, and add every row to `confidences` on the way."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                probabilities = row["probabilities"]
                if not probabilities:
                    continue
                likeliest = max(probabilities, key=probabilities.__getitem__)
                confidence, gold, predicted = float(probabilities[likeliest]), row["label"], row["prediction"]
                wrong_row = (probabilities.get(predicted, 0.0), row) if predicted != gold else None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(
                    f"{path}, line {number} is no prediction.", hint="Evaluate again: run.evaluate()"
                ) from error
            confidences.confidence.append(confidence)
            confidences.correct.append(likeliest == gold)
            if wrong_row:
                yield wrong_row


def _confident_error(row: dict[str, Any], probability: float) -> ConfidentError:
    texts = {name: str(row.get(name, "")) for name in ("id", "premise", "hypothesis", "label", "prediction")}
    return ConfidentError(**texts, probability=probability)
