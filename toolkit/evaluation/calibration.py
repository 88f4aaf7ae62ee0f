"""Whether probabilities can be believed: likelihood, calibration error, Brier score, and a temperature to mend them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.data.splits import Splits
from toolkit.runs.trained_run import TrainedRun

_BIN_COUNT = 15
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class Scores:
    """Proper scores and calibration error of probabilities; lower is better."""

    nll: float
    ece: float
    brier: float


@dataclass(frozen=True)
class Calibration:
    """A temperature, the held-back rows it was fitted on, and what it does to the evaluation rows."""

    temperature: float
    rows: int
    before: Scores
    after: Scores

    @property
    def is_at_lower_bound(self) -> bool:
        """Whether the search ran to its cold end: held-back rows that are all right do not say how sure is too sure."""
        return self.temperature < _MIN_TEMPERATURE * 1.01

    def record(self) -> dict[str, Any]:
        """The figures, for metrics.json."""
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityBins:
    """Rows by their confidence, in bins of equal width over (0, 1].

    `confidence` and `accuracy` are the means of a bin's rows, 0 where `counts` is 0.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def filled(self) -> list["ReliabilityBin"]:
        """The bins that have rows."""
        width = 1 / len(self.counts)
        columns = zip(self.counts.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        return [ReliabilityBin(i * width, (i + 1) * width, *values) for i, values in enumerate(columns) if values[0]]

    @property
    def error(self) -> float:
        """The mean distance between confidence and accuracy, weighted by the bins' rows."""
        return float((np.abs(self.accuracy - self.confidence) * self.counts).sum() / self.counts.sum())


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin, (lower, upper]: its rows, and the means of their confidence and of whether they are right."""

    lower: float
    upper: float
    rows: int
    confidence: float
    accuracy: float


def probability_scores(log_probabilities: np.ndarray, gold: np.ndarray) -> Scores:
    """Scores of one distribution over the labels for each row.

    `nll` is the mean of -log p of the gold label; `brier` the mean over rows of the sum over labels of squared
    differences from the truth, 0 to 2 (Brier 1950, Monthly Weather Review 78, 1); `ece` as below.

    Args:
        log_probabilities: [rows, labels], normalised over the labels.
        gold: [rows], indices of the true labels.
    """
    probabilities = np.exp(log_probabilities)
    one_hot_gold = np.eye(probabilities.shape[1])[gold]
    return Scores(
        nll=float(-log_probabilities[np.arange(len(gold)), gold].mean()),
        ece=expected_calibration_error(probabilities, gold),
        brier=float(((probabilities - one_hot_gold) ** 2).sum(axis=1).mean()),
    )


def reliability_bins(probabilities: np.ndarray, gold: np.ndarray, bins: int = _BIN_COUNT) -> ReliabilityBins:
    """Confidence and accuracy by bins.

    Args:
        probabilities: [rows, labels]; a row's confidence is its largest.
        gold: [rows], indices of the true labels.
        bins: how many.
    """
    return bin_confidences(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold, bins)


def bin_confidences(confidence: np.ndarray, correct: np.ndarray, bins: int = _BIN_COUNT) -> ReliabilityBins:
    """Rows in bins (0, 1/bins], (1/bins, 2/bins], ...

    Args:
        confidence: [rows], of the likeliest label.
        correct: [rows], whether that is the true one.
        bins: how many.
    """
    bin_indices = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_indices, minlength=bins)
    divisors = np.maximum(counts, 1)
    return ReliabilityBins(
        confidence=np.bincount(bin_indices, confidence, minlength=bins) / divisors,
        accuracy=np.bincount(bin_indices, correct, minlength=bins) / divisors,
        counts=counts,
    )


def expected_calibration_error(probabilities: np.ndarray, gold: np.ndarray, bins: int = _BIN_COUNT) -> float:
    """Expected calibration error (Naeini et al. 2015, Guo et al. 2017, arXiv 1706.04599).

    The arguments are those of `reliability_bins`.
    """
    return reliability_bins(probabilities, gold, bins).error


def apply_temperature(log_likelihoods: np.ndarray, temperature: float) -> np.ndarray:
    """Log-probabilities over the labels, softened (above 1) or sharpened (below 1); the likeliest label stays.

    Args:
        log_likelihoods: [rows, labels], normalised or not.
        temperature: what `fit_temperature` found; 1 only normalises.

    Returns:
        [rows, labels], normalised over the labels.
    """
    return log_softmax(np.asarray(log_likelihoods) / temperature, axis=1)


def fit_temperature(log_likelihoods: np.ndarray, gold: np.ndarray) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Searched between 0.05 and 20. Where every row is right, the coldest fits best and cannot be believed; where the
    model knows nothing, the hottest does, and near-equal probabilities are what it ought to say.

    Args:
        log_likelihoods: [rows, labels] of rows that the model was not trained on.
        gold: [rows], indices of the true labels.
    """
    rows = np.arange(len(gold))

    def nll(log_temperature: float) -> float:
        return float(-apply_temperature(log_likelihoods, np.exp(log_temperature))[rows, gold].mean())

    bounds = (np.log(_MIN_TEMPERATURE), np.log(_MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def calibrate(calibration_set: tuple[np.ndarray, np.ndarray], evaluation: tuple[np.ndarray, np.ndarray]) -> Calibration:
    """Fit a temperature on held-back rows and see what it does to the evaluation rows.

    Args:
        calibration_set: log-likelihoods [rows, labels] and gold indices [rows], to fit on.
        evaluation: the same of the evaluation rows, to measure on.
    """
    temperature = fit_temperature(*calibration_set)
    log_likelihoods, gold = evaluation
    return Calibration(
        temperature=temperature,
        rows=len(calibration_set[1]),
        before=probability_scores(apply_temperature(log_likelihoods, 1.0), gold),
        after=probability_scores(apply_temperature(log_likelihoods, temperature), gold),
    )


def calibration_rows(run: TrainedRun, splits: Splits) -> tuple[list[Example], list[str]]:
    """The rows to fit a temperature on: held back from the run's training, and of no premise that is evaluated.

    Returns:
        The rows, and a sentence of warning where rows are held back now that the run may have trained on: then none.
    """
    if not splits.calibration_set:
        return [], []
    if run.record.get("data", {}).get("calibration", {}).get("fingerprint") != fingerprint(splits.calibration_set):
        return [], [
            "No temperature was fitted: the rows to hold back (data.train, data.calibration_share, seed) are not those "
            "that the run's training held back, so some of them may have been trained on."
        ]
    if not splits.unseen_calibration_set:
        return [], ["No temperature was fitted: every premise that was held back is evaluated too."]
    return splits.unseen_calibration_set, []


def label_indices(gold: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """[rows], the position of each gold label in `labels`."""
    index_of = {label: i for i, label in enumerate(labels)}
    return np.array([index_of[label] for label in gold])
