"""A summary of predictions.jsonl for the report, made in one pass with little memory."""

import heapq
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import RunError
from toolkit.evaluation.calibration import ReliabilityBins, bin_confidences
from toolkit.recipe.inputs import NLI_INPUTS


@dataclass(frozen=True)
class ConfidentError:
    """A wrong prediction; `inputs` has the text of each input, and `probability` is that of the predicted label."""

    id: str
    inputs: Mapping[str, str]
    label: str
    prediction: str
    probability: float


@dataclass(frozen=True)
class PredictionSummary:
    """Rows binned by confidence, and the most confident errors in descending order.

    Args:
        bins: The bins behind `ece` in metrics.json, or None if no row has probabilities.
    """

    bins: ReliabilityBins | None = None
    errors: list[ConfidentError] = field(default_factory=list)


@dataclass(frozen=True)
class _Confidences:
    """The probability of each row's most likely label, and whether that label is correct."""

    # Typed arrays take 8 + 1 bytes per row. A list of floats would take about 32.
    confidence: "array[float]" = field(default_factory=lambda: array("d"))
    correct: "array[int]" = field(default_factory=lambda: array("b"))


def summarize_predictions(path: Path, inputs: Sequence[str] = NLI_INPUTS, errors: int = 20) -> PredictionSummary:
    """Summarize predictions.jsonl in one pass that keeps nine bytes per row in memory.

    Args:
        path: The file. Rows without probabilities (from free generation) are skipped.
        inputs: The names of the rows' inputs.
        errors: The number of most confident errors to keep; ties go to the earlier row.

    Raises:
        RunError: If a line is not a prediction.
    """
    confidences = _Confidences()
    # nlargest consumes the generator, which fills `confidences`, and never holds more than `errors` rows.
    wrong_rows = heapq.nlargest(errors, _wrong_rows(path, confidences), key=lambda wrong_row: wrong_row[0])
    bins = (
        bin_confidences(np.array(confidences.confidence), np.array(confidences.correct))
        if confidences.correct
        else None
    )
    return PredictionSummary(bins, [_confident_error(row, inputs, probability) for probability, row in wrong_rows])


def _wrong_rows(path: Path, confidences: _Confidences) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (probability of the prediction, row) for each wrong row; append every row to `confidences` on the way."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                probabilities = row["probabilities"]
                if not probabilities:
                    continue
                # Calibration concerns the most likely label, which greedy decoding does not always choose.
                most_likely_label = max(probabilities, key=probabilities.__getitem__)
                confidence, gold, predicted = float(probabilities[most_likely_label]), row["label"], row["prediction"]
                wrong_row = (probabilities.get(predicted, 0.0), row) if predicted != gold else None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(
                    f"{path}, line {number} is not a prediction.", hint="Evaluate again: run.evaluate()"
                ) from error
            confidences.confidence.append(confidence)
            confidences.correct.append(most_likely_label == gold)
            if wrong_row:
                yield wrong_row


def _confident_error(row: dict[str, Any], inputs: Sequence[str], probability: float) -> ConfidentError:
    texts = {name: str(row.get(name, "")) for name in inputs}
    fields = {name: str(row.get(name, "")) for name in ("id", "label", "prediction")}
    return ConfidentError(**fields, inputs=texts, probability=probability)
