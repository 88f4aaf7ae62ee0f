"""Results over several seeds: means with intervals, and paired tests of two models.

A seed changes the training and what it draws (training rows, few-shot examples). Intervals and tests here cover only
the sampling of evaluation rows and treat the trained models as given: each row counts with the share of a model's seeds
that predict it correctly. The standard deviation over seeds describes the variation between seeds.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.evaluation.intervals import percentile_interval, resample_groups, sum_by_group, wilson_interval
from toolkit.evaluation.prediction_files import EvaluatedRows, check_same_rows

RESAMPLES = 10_000
SIGN_FLIPS = 20_000
"""The number of random sign flips of a permutation test, so that no p-value is below 1 / 20,001."""
_MAX_SIGNS = 2**22  # drawn at a time


@dataclass(frozen=True)
class SeedMean:
    """The accuracy of a model over seeds.

    Args:
        accuracy: The mean over the seeds.
        interval: Its 95% interval, from a bootstrap of groups of rows.
        deviation: The standard deviation over the seeds; None for a single seed.
    """

    accuracy: float
    interval: tuple[float, float]
    deviation: float | None


@dataclass(frozen=True)
class SeedDifference:
    """The difference in accuracy between two models on the same rows, each with one or more seeds.

    Args:
        difference: The mean accuracy of the first model minus that of the second.
        interval: Its 95% interval, from a bootstrap of groups of rows.
        p_value: The p-value of a permutation test, see `sign_flip_test`.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


def mean_over_seeds(seeds: Sequence[EvaluatedRows]) -> SeedMean:
    """Return the mean accuracy of the seeds of a model.

    Raises:
        DataError: If the seeds were not evaluated on the same rows.
    """
    accuracies = [float(rows.correct.mean()) for rows in seeds]
    return SeedMean(
        statistics.fmean(accuracies),
        group_interval(correct_share(seeds), row_groups(seeds[0]), lowest=0.0),
        statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    )


def compare_seeds(ours: Sequence[EvaluatedRows], theirs: Sequence[EvaluatedRows]) -> SeedDifference:
    """Compare two models on the same rows. Their seeds need not be the same.

    Raises:
        DataError: If they were not evaluated on the same rows.
    """
    check_same_rows(ours[0], theirs[0])
    differences, groups = correct_share(ours) - correct_share(theirs), row_groups(ours[0])
    return SeedDifference(
        float(differences.mean()), group_interval(differences, groups, lowest=-1.0), sign_flip_test(differences, groups)
    )


def correct_share(seeds: Sequence[EvaluatedRows]) -> np.ndarray:
    """Return the share of the seeds that predict each row correctly, [rows].

    Raises:
        DataError: If the seeds were not evaluated on the same rows.
    """
    for rows in seeds[1:]:
        check_same_rows(seeds[0], rows)
    share: np.ndarray = np.mean([rows.correct for rows in seeds], axis=0)
    return share


def row_groups(rows: EvaluatedRows) -> np.ndarray:
    """Return the index of each row's group, [rows]. Rows of a group have the same first input."""
    return np.unique(rows.group_hashes, return_inverse=True)[1]


def group_interval(values: np.ndarray, groups: np.ndarray, *, lowest: float) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of values, resampling groups of rows.

    Args:
        values: [rows], between `lowest` and 1.
        groups: [rows], the index of each row's group. A single group gives the interval [lowest, 1], because it carries
            no information about other groups. If all rows are right, or all are wrong, the interval is Wilson's, with
            groups as the observations: every resample would have the same mean.
        lowest: 0 for an accuracy, -1 for a difference between two.
    """
    count = int(groups.max()) + 1
    if count == 1:
        return lowest, 1.0
    if lowest == 0 and (values == values[0]).all() and values[0] in (0, 1):
        return wilson_interval(int(values[0]) * count, count)
    columns = np.stack([values, np.ones(len(values))], axis=1)
    resampled = resample_groups(sum_by_group(groups, columns), seed=0, resamples=RESAMPLES)
    return percentile_interval(resampled[:, 0] / resampled[:, 1])


def sign_flip_test(differences: np.ndarray, groups: np.ndarray) -> float:
    """Return the two-sided p-value of a paired permutation test.

    Under the null hypothesis, the two models are exchangeable, so the sum of the differences of each group of rows is
    as likely with the opposite sign (Fisher 1935, The Design of Experiments, section 21). The sums of all groups get
    random signs. The observed sum counts as one of the draws, so the p-value is never 0 (Phipson and Smyth 2010,
    Statistical Applications in Genetics and Molecular Biology 9, 39).

    Args:
        differences: [rows], the differences between the models.
        groups: [rows], the index of each row's group.
    """
    sums = np.bincount(groups, differences)
    sums = np.sort(sums[np.abs(sums) > 1e-12])  # sorted: the order of groups differs between processes
    if not len(sums):
        return 1.0
    # The tolerance counts draws that differ from the observed sum only by rounding.
    threshold = abs(sums.sum()) - 1e-9
    extreme = sum(int((np.abs(flipped) >= threshold).sum()) for flipped in _flip_signs(sums))
    return (extreme + 1) / (SIGN_FLIPS + 1)


def _flip_signs(sums: np.ndarray) -> Iterator[np.ndarray]:
    """Yield totals of the sums with random signs, for some of the draws at a time."""
    generator, draws = np.random.default_rng(0), max(1, _MAX_SIGNS // len(sums))
    for start in range(0, SIGN_FLIPS, draws):
        signs = generator.integers(0, 2, size=(min(draws, SIGN_FLIPS - start), len(sums)), dtype=np.int8)
        yield (2 * signs - 1) @ sums


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests by Holm's step-down method, in the order given.

    Rejecting where an adjusted value is at most alpha keeps the probability of any false rejection at or below alpha,
    whatever the dependence between the tests (Holm 1979, Scandinavian Journal of Statistics 6, 65).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
