"""Learning curves: the error of a model as a power law of its number of training rows.

The law is error(n) = a * n ** -b + c, with an irreducible error c (Hestness et al. 2017, arXiv 1712.00409; Rosenfeld et
al. 2020, arXiv 1909.12673). It describes the middle of a curve. It fails for sizes at which the model is no better than
chance, and it is an extrapolation beyond the largest size, not a measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from toolkit.evaluation.intervals import percentile_interval, resample_groups, sum_by_group

MIN_SIZES = 3
"""The number of sizes that a fit needs."""
_SIZES_FOR_IRREDUCIBLE = 4
"""The number of sizes from which the irreducible error is fitted, too. With fewer, it is 0."""
_RESAMPLES = 400


@dataclass(frozen=True)
class PowerLaw:
    """The law error(n) = scale * n ** -exponent + irreducible.

    Args:
        scale: The factor a.
        exponent: The exponent b; 0 if more rows do not help.
        irreducible: The error c that no number of rows removes.
    """

    scale: float
    exponent: float
    irreducible: float

    def error(self, rows: float) -> float:
        """Return the error for a number of training rows."""
        return float(self.scale * rows**-self.exponent + self.irreducible)


@dataclass(frozen=True)
class LearningCurve:
    """The accuracy of a model by its number of training rows.

    Args:
        sizes: The numbers of training rows in ascending order, means over seeds.
        accuracies: The accuracy of each size, a mean over seeds.
        law: The fitted law.
        predicted_tenfold: The accuracy that the law predicts for ten times the largest size.
        predicted_tenfold_interval: Its 95% interval, from fits to resampled groups of evaluation rows. It includes
            neither the variation over seeds and drawn training rows nor the error of the extrapolation.
        predicted_largest: The accuracy of the largest size that a fit to the smaller sizes predicts; None if they are
            too few for a fit.
        sizes_at_majority: The sizes whose accuracy is not measurably above that of the majority class of the evaluation
            rows. The law does not describe them, so predictions from them are unreliable.
    """

    sizes: tuple[float, ...]
    accuracies: tuple[float, ...]
    law: PowerLaw
    predicted_tenfold: float
    predicted_tenfold_interval: tuple[float, float]
    predicted_largest: float | None
    sizes_at_majority: tuple[float, ...]


def fit_learning_curve(
    sizes: Sequence[float], correct: np.ndarray, groups: np.ndarray, majority_accuracy: float
) -> LearningCurve:
    """Fit a power law to the accuracies of a model that was trained on several numbers of rows.

    Args:
        sizes: At least `MIN_SIZES` numbers of training rows, in ascending order.
        correct: [sizes, rows], the share of the seeds of each size that predict an evaluation row correctly.
        groups: [rows], the index of each evaluation row's group.
        majority_accuracy: The accuracy of always giving the majority class of the evaluation rows.
    """
    errors = 1 - correct.mean(axis=1)
    law, largest = fit_power_law(sizes, errors), sizes[-1]
    columns = np.concatenate([1 - correct, np.ones((1, correct.shape[1]))]).T
    resampled = resample_groups(sum_by_group(groups, columns), seed=0, resamples=_RESAMPLES)
    fits = [fit_power_law(sizes, sample[:-1] / sample[-1], start=law) for sample in resampled]
    lowest = [percentile_interval(1 - resampled[:, i] / resampled[:, -1])[0] for i in range(len(sizes))]
    predicted = None
    if len(sizes) > MIN_SIZES:
        predicted = 1 - fit_power_law(sizes[:-1], errors[:-1]).error(largest)
    return LearningCurve(
        sizes=tuple(sizes),
        accuracies=tuple((1 - errors).tolist()),
        law=law,
        predicted_tenfold=1 - law.error(10 * largest),
        predicted_tenfold_interval=percentile_interval(np.array([1 - fit.error(10 * largest) for fit in fits])),
        predicted_largest=predicted,
        sizes_at_majority=tuple(size for size, low in zip(sizes, lowest, strict=True) if low <= majority_accuracy),
    )


def fit_power_law(sizes: Sequence[float], errors: np.ndarray, *, start: PowerLaw | None = None) -> PowerLaw:
    """Fit a power law by least squares.

    Args:
        sizes: The numbers of training rows.
        errors: [sizes], the share of wrong answers of each.
        start: A law near the result, to save time; None to try several starts.
    """
    has_irreducible = len(sizes) >= _SIZES_FOR_IRREDUCIBLE
    relative = np.array(sizes) / sizes[0]  # so that the scale is an error, and all parameters have the same magnitude

    def residuals(parameters: np.ndarray) -> np.ndarray:
        scale, exponent, irreducible = parameters
        differences: np.ndarray = scale * relative**-exponent + irreducible - errors
        return differences

    highest = max(float(errors.min()), 1e-9) if has_irreducible else 1e-9
    bounds = ([0.0, 0.0, 0.0], [2.0, 5.0, highest])
    if start is None:
        starts = [(float(errors[0]), exponent, share * highest) for exponent in (0.1, 0.5) for share in (0.1, 0.9)]
    else:
        starts = [(start.scale * sizes[0] ** -start.exponent, start.exponent, start.irreducible)]
    solutions = [least_squares(residuals, np.clip(point, *bounds), bounds=bounds) for point in starts]
    scale, exponent, irreducible = min(solutions, key=lambda solution: float(solution.cost)).x.tolist()
    return PowerLaw(scale * sizes[0] ** exponent, exponent, irreducible if has_irreducible else 0.0)
