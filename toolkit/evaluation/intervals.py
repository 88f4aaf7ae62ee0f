"""Confidence intervals: Wilson's for accuracies, and a cluster bootstrap for rows that share an input."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

RESAMPLES = 1000
_MAX_DRAWS = 10_000_000
"""The number of draws (resamples times distinct groups) in memory at the same time; they take 80 MB."""


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

    Rows that share their first input, such as a premise, are not independent, so whole groups are drawn (the cluster
    bootstrap, Field and Welsh 2007, Journal of the Royal Statistical Society B 69, 369).

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
    return np.concatenate([draws @ distinct_sums for draws in _draw_groups(counts, seed, resamples)])


def _draw_groups(counts: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield [samples, distinct groups]: how often each distinct group is drawn, for some of the samples at a time."""
    generator, samples = np.random.default_rng(seed), max(1, _MAX_DRAWS // len(counts))
    for start in range(0, resamples, samples):
        yield generator.multinomial(counts.sum(), counts / counts.sum(), size=min(samples, resamples - start))


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the middle 95% of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def macro_f1(true_positives: np.ndarray, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Compute macro F1: the mean F1 of the labels that have gold rows.

    A label without gold rows has no recall, so its F1 is undefined and is left out. Predicting it still counts, as an
    error of the gold label. This is scikit-learn's `f1_score` with `labels=np.unique(gold)`, and its
    `balanced_accuracy_score` averages over the same labels. These labels depend on the rows only. If predicted labels
    counted as well, one stray prediction in a million rows could turn 1.0 into 0.667.

    Args:
        true_positives: [..., labels], the number of correct rows of each label.
        gold: [..., labels], the number of rows of each label.
        predicted: [..., labels], the number of predictions of each label.

    Returns:
        [...], one value per row of counts.
    """
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the gold count plus the predicted count. A label without gold
    # rows has no true positives, so it adds nothing to the sum.
    f1 = 2 * true_positives / np.maximum(gold + predicted, 1)
    return f1.sum(axis=-1) / (gold > 0).sum(axis=-1)


def macro_f1_interval(
    gold: np.ndarray, predicted: np.ndarray, groups: np.ndarray, labels: int, *, seed: int
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of macro F1, resampling groups of rows.

    As for all rows, the macro F1 of a sample is the mean over the labels that have gold rows in the sample.

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
    # Each row is one count in one cell of the confusion matrix. The matrices are sparse: with 500 labels, 1,000 dense
    # ones would take 2 GB.
    cells, cell_indices = np.unique(gold * (labels + 1) + predicted, return_inverse=True)
    group_cells, counts = _distinct_groups(csr_array((np.ones(len(gold)), (groups, cell_indices))))
    cell_gold, cell_predicted = np.divmod(cells, labels + 1)
    # [distinct groups, labels] each: the counts that `macro_f1` needs.
    true_positives, gold_counts, predicted_counts = (
        group_cells @ csr_array((np.ones(len(kept)), (kept, columns[kept])), shape=(len(cells), labels))
        for kept, columns in (
            (np.flatnonzero(cell_gold == cell_predicted), cell_gold),
            (np.arange(len(cells)), cell_gold),
            (np.flatnonzero(cell_predicted < labels), cell_predicted),
        )
    )
    values = [
        macro_f1(draws @ true_positives, draws @ gold_counts, draws @ predicted_counts)
        for draws in _draw_groups(counts, seed, RESAMPLES)
    ]
    return percentile_interval(np.concatenate(values))


def _distinct_groups(group_cells: csr_array) -> tuple[csr_array, np.ndarray]:
    """Return the distinct rows of a sparse matrix of counts, in the order of np.unique, and how often each occurs."""
    group_cells.sum_duplicates()  # also sorts the cells of each group
    bounds, cells, values = (array.tolist() for array in (group_cells.indptr, group_cells.indices, group_cells.data))
    # Negative cells, because a group that has an earlier cell follows one that lacks it, whose count there is 0.
    groups = Counter(
        tuple((-cell, value) for cell, value in zip(cells[start:end], values[start:end], strict=True))
        for start, end in pairwise(bounds)
    )
    distinct = sorted(groups)
    entries = [(row, -cell, value) for row, group in enumerate(distinct) for cell, value in group]
    rows, columns, data = np.array(entries).T
    matrix = csr_array((data, (rows.astype(int), columns.astype(int))), shape=(len(distinct), group_cells.shape[1]))
    return matrix, np.array([groups[group] for group in distinct])
