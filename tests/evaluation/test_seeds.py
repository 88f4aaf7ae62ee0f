"""Means over seeds, the sign-flip test and Holm's correction, checked with scipy and by hand."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test

from toolkit.errors import DataError
from toolkit.evaluation.intervals import wilson_interval
from toolkit.evaluation.prediction_files import EvaluatedRows
from toolkit.evaluation.seeds import compare_seeds, holm_adjust, mean_over_seeds, row_groups, sign_flip_test


def evaluated(correct: np.ndarray, groups: np.ndarray, name: str = "run/adapter") -> EvaluatedRows:
    """Return rows of two labels, of which the given ones are predicted correctly."""
    gold = np.zeros(len(correct), dtype=int)
    return EvaluatedRows(
        Path(), name, {}, ("a", "b"), gold, np.where(correct, 0, 1), np.arange(len(correct)), 1000 + groups
    )


def test_mean_over_seeds() -> None:
    groups = np.arange(40) // 2
    seeds = [evaluated(np.arange(40) < right, groups) for right in (20, 30)]
    mean = mean_over_seeds(seeds)
    assert mean.accuracy == 0.625 and mean.deviation == pytest.approx(0.25 / np.sqrt(2))
    assert mean.interval[0] < 0.625 < mean.interval[1]
    assert mean_over_seeds(seeds[:1]).deviation is None


def test_repeated_seeds_do_not_narrow_the_interval() -> None:
    """Repeating a seed adds no information about the rows."""
    rows = evaluated(np.arange(60) % 3 > 0, np.arange(60) // 3)
    assert mean_over_seeds([rows]).interval == mean_over_seeds([rows, rows, rows]).interval


def test_intervals_without_variation_are_wide() -> None:
    """All resamples would be equal: one group says nothing about others, and twelve right rows do not prove 100%."""
    one_group = evaluated(np.arange(5) < 4, np.zeros(5, dtype=int))
    assert mean_over_seeds([one_group]).interval == (0, 1)
    assert compare_seeds([one_group], [one_group]).interval == (-1, 1)
    right = evaluated(np.ones(12, dtype=bool), np.arange(12))
    assert mean_over_seeds([right, right]).interval == pytest.approx(wilson_interval(12, 12))


def test_seeds_with_different_rows_are_rejected() -> None:
    rows = evaluated(np.ones(4, dtype=bool), np.arange(4))
    with pytest.raises(DataError, match="cannot be compared"):
        mean_over_seeds([rows, replace(rows, labels=("a", "c"))])


def test_sign_flip_test_matches_all_flips() -> None:
    sums = np.array([1.0, 2.0, -0.5, 1.5, 0.5, 1.0, -1.0, 2.5])
    flipped = np.array([np.dot(signs, sums) for signs in product((-1, 1), repeat=len(sums))])
    exact = float((np.abs(flipped) >= abs(sums.sum()) - 1e-9).mean())
    assert sign_flip_test(sums, np.arange(len(sums))) == pytest.approx(exact, abs=0.01)
    scipy_result = permutation_test(
        (sums,), lambda values, axis: values.sum(axis=axis), permutation_type="samples", vectorized=True
    )
    assert exact == pytest.approx(scipy_result.pvalue)


def test_sign_flip_test_counts_groups_not_rows() -> None:
    """Four groups cannot be more significant than 2 of 16 flips, however many rows they have."""
    groups = np.arange(400) // 100
    assert sign_flip_test(np.ones(400), groups) == pytest.approx(2 / 16, abs=0.01)
    assert sign_flip_test(np.ones(400), np.arange(400)) < 1e-4
    assert sign_flip_test(np.zeros(4), np.arange(4)) == 1.0


def test_sign_flip_test_ignores_group_order() -> None:
    """Hashes of groups, and so their order, differ between processes."""
    differences, groups = np.random.default_rng(1).normal(0.1, 1, 90), np.arange(90) // 3
    assert sign_flip_test(differences, groups) == sign_flip_test(differences, 29 - groups)


def test_comparison_of_models_with_different_seeds() -> None:
    groups = np.arange(90) // 3
    ours = [evaluated(np.arange(90) < right, groups) for right in (60, 80)]
    theirs = [evaluated(np.arange(90) < right, groups) for right in (30, 30, 30)]
    comparison = compare_seeds(ours, theirs)
    assert comparison.difference == pytest.approx(40 / 90)
    assert comparison.interval[0] < 40 / 90 < comparison.interval[1] and comparison.p_value < 0.001
    assert compare_seeds(ours, ours).p_value == 1.0
    assert len(set(row_groups(ours[0]))) == 30


def test_holm_adjusts_in_the_order_given() -> None:
    # Worked out by hand: sorted 0.01, 0.02, 0.03, 0.04 with factors 4, 3, 2, 1, made ascending.
    assert holm_adjust([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm_adjust([0.9, 0.8]) == [1.0, 1.0] and holm_adjust([]) == [] and holm_adjust([0.02]) == [0.02]
