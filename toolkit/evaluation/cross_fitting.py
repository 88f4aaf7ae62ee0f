"""Cross-fitted calibration: the quality of probabilities after temperature scaling, without a calibration set."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from toolkit.data.example import Example
from toolkit.evaluation.calibration import (
    Scores,
    apply_temperature,
    fit_temperature,
    is_at_lower_bound,
    label_indices,
    probability_scores,
)
from toolkit.evaluation.metrics import Predictions
from toolkit.utils.formatting import join_names


@dataclass(frozen=True)
class CrossFittedCalibration:
    """Scores of the evaluation rows, each half of them calibrated with the temperature of the other half.

    They estimate the quality of the probabilities after temperature scaling, with a temperature fitted on about half as
    many rows. The temperatures are not meant for predictions: there are two, both fitted on evaluation rows.

    Args:
        temperatures: The temperatures fitted on the first and on the second half.
        rows: The number of rows in the first and in the second half.
        scores: Scores of the rows of both halves.
    """

    temperatures: tuple[float, float]
    rows: tuple[int, int]
    scores: Scores

    def record(self) -> dict[str, Any]:
        """Return the field of metrics.json."""
        return {"temperatures": list(self.temperatures), "rows": list(self.rows), **asdict(self.scores)}


def assign_halves(groups: Sequence[str], seed: int) -> np.ndarray:
    """Split rows into two halves, with all rows of a group in the same half.

    The groups are assigned from the largest to the smallest, each to the half with fewer rows so far. Groups of equal
    size come in an order that depends only on the seed and their texts, not on the order of the rows.

    Args:
        groups: [rows], the group of each row, see `Example.group`.
        seed: The seed of the split.

    Returns:
        Booleans [rows], True for the rows in the second half.
    """
    sizes = Counter(groups)
    digests = {group: hashlib.sha256(f"cross-fitting {seed} {group}".encode()).digest() for group in sizes}
    counts, half_of = [0, 0], {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], digests[group])):
        half_of[group] = half = int(counts[1] < counts[0])
        counts[half] += sizes[group]
    return np.array([half_of[group] == 1 for group in groups])


def cross_fit(
    log_likelihoods: np.ndarray,
    gold: np.ndarray,
    is_second: np.ndarray,
    log_probabilities: Callable[[np.ndarray, float], np.ndarray] = apply_temperature,
) -> CrossFittedCalibration:
    """Fit a temperature on each half, apply it to the other half, and score all rows.

    Cross-fitting (Chernozhukov et al. 2018, The Econometrics Journal 21, C1) keeps the estimate honest: no row is
    calibrated with a temperature that depends on its own label. For temperature scaling, see `fit_temperature`.

    Args:
        log_likelihoods: [rows, labels of the task].
        gold: [rows], indices of the gold labels.
        is_second: Booleans [rows], True for the rows in the second half.
        log_probabilities: As in `fit_temperature`.
    """
    first_temperature, second_temperature = (
        fit_temperature(log_likelihoods[half], gold[half], log_probabilities) for half in (~is_second, is_second)
    )
    calibrated = np.where(
        is_second[:, None],
        log_probabilities(log_likelihoods, first_temperature),
        log_probabilities(log_likelihoods, second_temperature),
    )
    second_rows = int(is_second.sum())
    return CrossFittedCalibration(
        temperatures=(first_temperature, second_temperature),
        rows=(len(gold) - second_rows, second_rows),
        scores=probability_scores(calibrated, gold),
    )


def cross_fit_evaluation(
    examples: Sequence[Example], predictions: Predictions, *, seed: int
) -> tuple[CrossFittedCalibration | None, list[str]]:
    """Cross-fit the calibration of an evaluation.

    Args:
        examples: The evaluation rows.
        predictions: The predictions for these rows.
        seed: The seed of the split.

    Returns:
        The result, or None in free mode, or None and a warning if the rows do not determine two temperatures.
    """
    if predictions.log_likelihoods is None:
        return None, []
    is_second = assign_halves([example.group for example in examples], seed)
    if not is_second.any():
        (name, *_), rows = examples[0].inputs, len(examples)
        reason = f"there is only one {name}" if rows > 1 else "there is only one row"
        return None, [f"Calibrated scores (cross-fitted) need at least two groups of rows, but {reason}."]
    gold = label_indices([example.label for example in examples], predictions.labels)
    result = cross_fit(predictions.log_likelihoods, gold, is_second, predictions.merged.log_probabilities)
    perfect = [
        f"{rows:,}"
        for rows, temperature in zip(result.rows, result.temperatures, strict=True)
        if is_at_lower_bound(temperature)
    ]
    if not perfect:
        return result, []
    return None, [
        f"No calibrated scores (cross-fitted): the {join_names(perfect, 'and')} rows of "
        f"{'one half' if len(perfect) == 1 else 'the two halves'} have too few errors to determine a temperature."
    ]
