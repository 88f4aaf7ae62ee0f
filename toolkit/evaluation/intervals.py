"""Confidence intervals: Wilson's for accuracies, and a cluster bootstrap for rows that share a premise."""

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927, Journal of the American Statistical Association 22, 209).

    Args:
        correct: The number of correct rows, 0 to n.
        n: The number of rows, at least 1, which are taken to be independent.
    """
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def sum_by_group(groups: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum [rows, columns] over the rows of each group, as [groups, columns]; `groups` are indices from 0."""
    return np.stack([np.bincount(groups, column) for column in columns.T], axis=1)


def resample_groups(sums: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Draw bootstrap samples of groups, with replacement, and return the column sums of each sample.

    Rows that share a premise are not independent, so whole groups are drawn (the cluster bootstrap, Field and Welsh
    2007, Journal of the Royal Statistical Society B 69, 369).

    Args:
        sums: [groups, columns], the result of `sum_by_group`.
        seed: The seed of the draws. The result does not depend on the order of the groups.
        resamples: The number of samples. Each contains as many groups as the data.

    Returns:
        [resamples, columns].
    """
    # Groups with equal sums are interchangeable, so it is enough to draw how often each distinct sum occurs. These
    # counts are multinomial: the same distribution as drawing groups one by one, without a loop over groups.
    # np.unique also sorts, so the order of the groups does not matter.
    distinct_sums, counts = np.unique(sums, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return draws @ distinct_sums


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the middle 95% of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Compute macro F1 from confusion counts; a label that is neither gold nor predicted has F1 0, as in scikit-learn.

    Args:
        confusion: [..., labels, labels + 1], rows are gold labels and columns are predictions. The last column counts
            the invalid answers.

    Returns:
        [...], one value per confusion matrix.
    """
    true_positives = np.diagonal(confusion, axis1=-2, axis2=-1)
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the gold count plus the predicted count.
    gold_plus_predicted = confusion.sum(axis=-1) + confusion[..., :-1].sum(axis=-2)
    return (2 * true_positives / np.maximum(gold_plus_predicted, 1)).mean(axis=-1)


def macro_f1_interval(
    gold: np.ndarray, predicted: np.ndarray, groups: np.ndarray, labels: int, *, seed: int
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of macro F1, resampling groups of rows.

    Args:
        gold: [rows], label indices.
        predicted: [rows], label indices; `labels` for an invalid answer.
        groups: [rows], group indices from 0. A single group gives the interval [0, 1], because it carries no
            information about other groups.
        labels: The number of labels.
        seed: The seed of the draws.
    """
    if groups.max() == 0:
        return 0.0, 1.0
    # Each row is one count in one cell of the flattened confusion matrix, so a sample's matrix is a sum of its groups'.
    # Only cells that occur are kept.
    cells, cell_indices = np.unique(gold * (labels + 1) + predicted, return_inverse=True)
    resampled = resample_groups(sum_by_group(groups, np.eye(len(cells))[cell_indices]), seed=seed)
    confusion = np.zeros((len(resampled), labels * (labels + 1)))
    confusion[:, cells] = resampled
    return percentile_interval(macro_f1(confusion.reshape(-1, labels, labels + 1)))
