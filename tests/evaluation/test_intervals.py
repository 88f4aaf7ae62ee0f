"""Intervals compared with published values, and the bootstrap with a plain implementation."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import f1_score

from toolkit.evaluation.intervals import (
    macro_f1,
    macro_f1_interval,
    percentile_interval,
    resample_groups,
    sum_by_group,
    wilson_interval,
)

RNG = np.random.default_rng(7)
GOLD = RNG.integers(0, 3, 600)
PREDICTED = np.where(RNG.random(600) < 0.7, GOLD, RNG.integers(0, 4, 600))  # 3 is an invalid answer


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_published_values(correct: int, n: int, low: float, high: float) -> None:
    assert [round(bound, 4) for bound in wilson_interval(correct, n)] == [low, high]


def counts(gold: np.ndarray, predicted: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = (gold[gold == predicted], gold, predicted)
    true_positives, gold_counts, predicted_counts = (np.bincount(column, minlength=labels + 1) for column in columns)
    return true_positives[:labels], gold_counts[:labels], predicted_counts[:labels]


@pytest.mark.parametrize("labels", [3, 5])
def test_macro_f1_matches_scikit_learn(labels: int) -> None:
    """Labels without gold rows are left out, predicted or not: 3 is predicted, 4 is not."""
    expected = f1_score(GOLD, PREDICTED, labels=np.unique(GOLD), average="macro")
    assert macro_f1(*counts(GOLD, PREDICTED, labels)) == pytest.approx(expected)


def test_absent_labels_leave_the_interval_unchanged() -> None:
    """The interval of rows that lack labels is that of a task without these labels; perfect answers have [1, 1]."""
    groups = np.arange(600) // 3
    expected = macro_f1_interval(GOLD, PREDICTED, groups, 3, seed=1)
    shifted = np.where(PREDICTED == 3, 500, PREDICTED)  # an invalid answer of a task with 500 labels
    assert macro_f1_interval(GOLD, shifted, groups, 500, seed=1) == pytest.approx(expected)
    assert macro_f1_interval(GOLD % 2, GOLD % 2, groups, 3, seed=1) == (1.0, 1.0)


def test_memory_of_the_interval_is_bounded() -> None:
    """1,000 dense matrices of 500 labels would take 2 GB."""
    gold, predicted = RNG.integers(0, 500, 2000), RNG.integers(0, 501, 2000)
    tracemalloc.start()
    low, high = macro_f1_interval(gold, predicted, np.arange(2000), 500, seed=1)
    assert 0 <= low < high < 0.02 and tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_rows_are_summed_by_group() -> None:
    sums = sum_by_group(np.array([0, 1, 0]), np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    assert sums.tolist() == [[5.0, 50.0], [2.0, 20.0]]


def test_interval_depends_on_seed_only() -> None:
    """Equal seeds give equal intervals, whatever the order of rows and the numbering of groups."""
    groups = np.arange(600) // 3
    interval = macro_f1_interval(GOLD, PREDICTED, groups, 3, seed=1)
    assert interval == macro_f1_interval(GOLD, PREDICTED, groups, 3, seed=1)
    assert interval != macro_f1_interval(GOLD, PREDICTED, groups, 3, seed=2)
    order = RNG.permutation(600)
    renumbered = RNG.permutation(200)[groups]
    assert interval == macro_f1_interval(GOLD[order], PREDICTED[order], renumbered[order], 3, seed=1)


def test_single_row_groups_match_plain_bootstrap() -> None:
    low, high = macro_f1_interval(GOLD, PREDICTED, np.arange(600), 3, seed=1)
    rng = np.random.default_rng(2)
    samples = [rng.integers(0, 600, 600) for _ in range(1500)]
    scores = [f1_score(GOLD[i], PREDICTED[i], labels=[0, 1, 2], average="macro") for i in samples]
    expected = percentile_interval(np.array(scores))
    # The standard deviation of macro F1 is 0.018, that of a 2.5% quantile of 1,000 samples is about 0.0012.
    assert (low, high) == pytest.approx(expected, abs=0.005)


def test_repeated_rows_do_not_narrow_the_interval() -> None:
    """Rows repeated within their group leave the interval as it is; as independent rows they narrow it."""
    groups = np.arange(600)
    once = macro_f1_interval(GOLD, PREDICTED, groups, 3, seed=1)
    assert macro_f1_interval(*(np.repeat(x, 5) for x in (GOLD, PREDICTED, groups)), 3, seed=1) == pytest.approx(once)
    rows = np.arange(3000)
    narrower = macro_f1_interval(np.repeat(GOLD, 5), np.repeat(PREDICTED, 5), rows, 3, seed=1)
    assert (narrower[1] - narrower[0]) * 5**0.5 == pytest.approx(once[1] - once[0], rel=0.15)


def test_resampled_means_have_expected_spread() -> None:
    sums = RNG.integers(-2, 3, (400, 1)).astype(float)
    means = resample_groups(sums, seed=3, resamples=20_000)[:, 0] / 400
    assert means.mean() == pytest.approx(sums.mean(), abs=0.002)
    assert means.std() == pytest.approx(sums.std() / 20, rel=0.03)


def test_a_single_premise_gives_the_widest_interval() -> None:
    assert macro_f1_interval(GOLD, PREDICTED, np.zeros(600, dtype=int), 3, seed=1) == (0.0, 1.0)
