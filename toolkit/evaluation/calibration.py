"""Calibration of probabilities: likelihood, calibration error, Brier score and temperature scaling."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_BIN_COUNT = 15  # as in Guo et al. 2017
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class Scores:
    """Negative log-likelihood, expected calibration error and Brier score of probabilities; lower is better."""

    nll: float
    ece: float
    brier: float


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature and its effect on the evaluation rows.

    Args:
        temperature: The fitted temperature.
        rows: The number of calibration rows it was fitted on.
        before: Scores of the evaluation rows without the temperature.
        after: Scores of the evaluation rows with the temperature.
    """

    temperature: float
    rows: int
    before: Scores
    after: Scores

    @property
    def is_at_lower_bound(self) -> bool:
        """True if the temperature is the lowest one allowed, because every calibration row is predicted correctly."""
        return is_at_lower_bound(self.temperature)

    def record(self) -> dict[str, Any]:
        """Return the fields as a dictionary for metrics.json."""
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityBins:
    """Rows grouped by confidence into bins of equal width over (0, 1].

    Args:
        confidence: [bins], mean confidence of the rows in each bin, 0 for an empty bin.
        accuracy: [bins], share of correct rows in each bin, 0 for an empty bin.
        counts: [bins], number of rows in each bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def filled(self) -> list["ReliabilityBin"]:
        """The bins that contain rows."""
        width = 1 / len(self.counts)
        columns = zip(self.counts.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        return [ReliabilityBin(i * width, (i + 1) * width, *values) for i, values in enumerate(columns) if values[0]]

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence|, averaged over bins weighted by their rows."""
        return float((np.abs(self.accuracy - self.confidence) * self.counts).sum() / self.counts.sum())


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin, (lower, upper], with the number, mean confidence and accuracy of its rows."""

    lower: float
    upper: float
    rows: int
    confidence: float
    accuracy: float


def probability_scores(log_probabilities: np.ndarray, gold: np.ndarray) -> Scores:
    """Score one distribution over the labels per row.

    `nll` is the mean of -log p(gold label). `brier` is the mean squared distance between the probabilities and the
    one-hot gold label, summed over labels, so it ranges from 0 to 2 (Brier 1950, Monthly Weather Review 78, 1). `ece`
    is explained in `expected_calibration_error`.

    Args:
        log_probabilities: [rows, labels], normalized over the labels.
        gold: [rows], indices of the gold labels.
    """
    probabilities = np.exp(log_probabilities)
    one_hot_gold = np.eye(probabilities.shape[1])[gold]
    return Scores(
        nll=float(-log_probabilities[np.arange(len(gold)), gold].mean()),
        ece=expected_calibration_error(probabilities, gold),
        brier=float(((probabilities - one_hot_gold) ** 2).sum(axis=1).mean()),
    )


def reliability_bins(probabilities: np.ndarray, gold: np.ndarray, bins: int = _BIN_COUNT) -> ReliabilityBins:
    """Bin rows by confidence, which is the probability of a row's most likely label.

    Args:
        probabilities: [rows, labels].
        gold: [rows], indices of the gold labels.
        bins: The number of bins.
    """
    return bin_confidences(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold, bins)


def bin_confidences(confidence: np.ndarray, correct: np.ndarray, bins: int = _BIN_COUNT) -> ReliabilityBins:
    """Bin rows by confidence into (0, 1/bins], (1/bins, 2/bins], ...

    Args:
        confidence: [rows], probability of the most likely label.
        correct: [rows], True if that label is the gold label.
        bins: The number of bins.
    """
    # Subtracting 1 from the rounded-up index puts a value on a bin's upper edge into that bin.
    bin_indices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_indices, minlength=bins)
    divisors = np.maximum(counts, 1)  # avoids 0/0 in empty bins
    return ReliabilityBins(
        confidence=np.bincount(bin_indices, confidence, minlength=bins) / divisors,
        accuracy=np.bincount(bin_indices, correct, minlength=bins) / divisors,
        counts=counts,
    )


def expected_calibration_error(probabilities: np.ndarray, gold: np.ndarray, bins: int = _BIN_COUNT) -> float:
    """Compute the expected calibration error (Naeini et al. 2015, Guo et al. 2017, arXiv 1706.04599).

    The arguments are those of `reliability_bins`.
    """
    return reliability_bins(probabilities, gold, bins).error


def apply_temperature(log_likelihoods: np.ndarray, temperature: float) -> np.ndarray:
    """Divide log-likelihoods by a temperature and normalize them over the labels.

    A temperature above 1 softens the distribution, one below 1 sharpens it. The most likely label never changes.

    Args:
        log_likelihoods: [rows, labels], normalized or not.
        temperature: The temperature; 1 only normalizes.

    Returns:
        [rows, labels], log-probabilities that are normalized over the labels.
    """
    return log_softmax(np.asarray(log_likelihoods) / temperature, axis=1)


def fit_temperature(
    log_likelihoods: np.ndarray,
    gold: np.ndarray,
    log_probabilities: Callable[[np.ndarray, float], np.ndarray] = apply_temperature,
) -> float:
    """Find the temperature that minimizes the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    The search is limited to 0.05 to 20. If every row is right, the likelihood grows as the temperature falls, so the
    lower bound wins and says nothing about calibration. If the model knows nothing, the upper bound wins, and the
    nearly uniform probabilities that it produces are appropriate.

    Args:
        log_likelihoods: [rows, labels], from rows that the model was not trained on.
        gold: [rows], indices of the gold labels.
        log_probabilities: A function that returns the log-probabilities of the rows at a temperature. Its columns are
            the labels that `gold` refers to; see `MergedLabels.log_probabilities`.
    """
    rows = np.arange(len(gold))

    def nll(log_temperature: float) -> float:
        return float(-log_probabilities(log_likelihoods, np.exp(log_temperature))[rows, gold].mean())

    # A temperature acts by its ratio to 1, so the search runs over its logarithm.
    bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
    best = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    # The search never reaches its bounds. If all rows are predicted correctly and confidently, the likelihood rounds to
    # 1 at many temperatures, and the search can stop at any of them.
    return _MIN_TEMPERATURE if nll(bounds[0]) <= nll(best) else float(np.exp(best))


def is_at_lower_bound(temperature: float) -> bool:
    """Return whether a fitted temperature is the lowest one allowed, because every row is predicted correctly."""
    return temperature <= _MIN_TEMPERATURE


def calibrate(
    calibration_set: tuple[np.ndarray, np.ndarray],
    evaluation: tuple[np.ndarray, np.ndarray],
    log_probabilities: Callable[[np.ndarray, float], np.ndarray] = apply_temperature,
) -> Calibration:
    """Fit a temperature on the calibration set and measure its effect on the evaluation rows.

    Args:
        calibration_set: Log-likelihoods [rows, labels] and gold indices [rows] to fit on.
        evaluation: Log-likelihoods [rows, labels] and gold indices [rows] to measure on.
        log_probabilities: A function that returns the log-probabilities of the evaluation rows at a temperature, over
            the labels of their gold indices; see `MergedLabels.log_probabilities`.
    """
    temperature = fit_temperature(*calibration_set)
    log_likelihoods, gold = evaluation
    return Calibration(
        temperature=temperature,
        rows=len(calibration_set[1]),
        before=probability_scores(log_probabilities(log_likelihoods, 1.0), gold),
        after=probability_scores(log_probabilities(log_likelihoods, temperature), gold),
    )


def label_indices(gold: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return the index of each gold label in `labels`, as an array [rows]."""
    index_of = {label: i for i, label in enumerate(labels)}
    return np.array([index_of[label] for label in gold])
