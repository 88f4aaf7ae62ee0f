"""How far a figure may be from the truth: Wilson's interval, and a bootstrap of rows that come in groups."""

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, Journal of the American Statistical Association 22, 209).

    Args:
        correct: how many of `n` independent rows, 0 to n.
        n: at least 1.
    """
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def sum_by_group(groups: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[groups, columns]: the sums of [rows, columns] over the rows of each group; `groups` counts from 0."""
    return np.stack([np.bincount(groups, column) for column in columns.T], axis=1)


def resample_groups(sums: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and add up what they hold; many times.

    Rows that share a premise are not independent, so it is groups that are drawn (the cluster bootstrap, Field and
    Welsh 2007, Journal of the Royal Statistical Society B 69, 369). Groups with equal sums are exchangeable: how often
    each kind is drawn is multinomial, which is the same distribution and takes no loop over groups.

    Args:
        sums: [groups, columns], see `sum_by_group`.
        seed: equal seeds give equal draws; the order of the groups has no influence.
        resamples: how many times.

    Returns:
        [resamples, columns].
    """
    distinct_sums, counts = np.unique(sums, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return draws @ distinct_sums


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of a resampled figure."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Macro F1 from counts; a label that is neither gold nor predicted has F1 0, as with scikit-learn.

    Args:
        confusion: [..., labels, labels + 1], rows gold, columns predicted, the last column for what is no label.

    Returns:
        [...].
    """
    true_positives = np.diagonal(confusion, axis1=-2, axis2=-1)
    gold_plus_predicted = confusion.sum(axis=-1) + confusion[..., :-1].sum(axis=-2)
    return (2 * true_positives / np.maximum(gold_plus_predicted, 1)).mean(axis=-1)


def macro_f1_interval(
    gold: np.ndarray, predicted: np.ndarray, groups: np.ndarray, labels: int, *, seed: int
) -> tuple[float, float]:
    """The 95 % bootstrap interval of macro F1, groups resampled.

    Args:
        gold: [rows], label indices.
        predicted: [rows], label indices; `labels` where an answer was no label.
        groups: [rows], counted from 0. A single group tells nothing about others: 0 to 1.
        labels: how many there are.
        seed: of the draws.
    """
    if groups.max() == 0:
        return 0.0, 1.0
    cells, cell_indices = np.unique(gold * (labels + 1) + predicted, return_inverse=True)
    resampled = resample_groups(sum_by_group(groups, np.eye(len(cells))[cell_indices]), seed=seed)
    confusion = np.zeros((len(resampled), labels * (labels + 1)))
    confusion[:, cells] = resampled
    return percentile_interval(macro_f1(confusion.reshape(-1, labels, labels + 1)))
