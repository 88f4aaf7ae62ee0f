"""Intervals against published values, and the bootstrap against the plain one that it stands for."""

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
SAID = np.where(RNG.random(600) < 0.7, GOLD, RNG.integers(0, 4, 600))  # 3: an answer that is no label


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(correct: int, n: int, low: float, high: float) -> None:
    assert [round(bound, 4) for bound in wilson_interval(correct, n)] == [low, high]


def test_macro_f1_from_counts_is_scikit_learns() -> None:
    counts = np.zeros((3, 4))
    np.add.at(counts, (GOLD, SAID), 1)
    wanted = f1_score(GOLD, SAID, labels=[0, 1, 2], average="macro")
    assert macro_f1(counts) == pytest.approx(wanted)
    empty = np.zeros((2, 3))
    empty[0, 0] = 4
    assert macro_f1(empty) == pytest.approx(f1_score([0] * 4, [0] * 4, labels=[0, 1], average="macro", zero_division=0))


def test_groups_are_summed() -> None:
    sums = sum_by_group(np.array([0, 1, 0]), np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    assert sums.tolist() == [[5.0, 50.0], [2.0, 20.0]]


def test_equal_seeds_give_equal_intervals_and_the_order_of_rows_has_no_part_in_it() -> None:
    groups = np.arange(600) // 3
    interval = macro_f1_interval(GOLD, SAID, groups, 3, seed=1)
    assert interval == macro_f1_interval(GOLD, SAID, groups, 3, seed=1)
    assert interval != macro_f1_interval(GOLD, SAID, groups, 3, seed=2)
    order = RNG.permutation(600)
    renamed = RNG.permutation(200)[groups]
    assert interval == macro_f1_interval(GOLD[order], SAID[order], renamed[order], 3, seed=1)


def test_with_one_row_per_group_it_is_the_bootstrap_of_rows() -> None:
    low, high = macro_f1_interval(GOLD, SAID, np.arange(600), 3, seed=1)
    rng = np.random.default_rng(2)
    drawn = [rng.integers(0, 600, 600) for _ in range(1500)]
    plain = [f1_score(GOLD[i], SAID[i], labels=[0, 1, 2], average="macro") for i in drawn]
    wanted = percentile_interval(np.array(plain))
    # The standard deviation is 0.018; of a 2.5 % quantile of 1,000 draws it is about 0.0012.
    assert (low, high) == pytest.approx(wanted, abs=0.005)


def test_rows_that_are_repeated_within_their_group_make_nothing_surer() -> None:
    groups = np.arange(600)
    once = macro_f1_interval(GOLD, SAID, groups, 3, seed=1)
    assert macro_f1_interval(*(np.repeat(x, 5) for x in (GOLD, SAID, groups)), 3, seed=1) == pytest.approx(once)
    rows = np.arange(3000)
    narrower = macro_f1_interval(np.repeat(GOLD, 5), np.repeat(SAID, 5), rows, 3, seed=1)
    assert (narrower[1] - narrower[0]) * 5**0.5 == pytest.approx(once[1] - once[0], rel=0.15)


def test_the_resampled_means_vary_as_theory_says() -> None:
    sums = RNG.integers(-2, 3, (400, 1)).astype(float)
    means = resample_groups(sums, seed=3, resamples=20_000)[:, 0] / 400
    assert means.mean() == pytest.approx(sums.mean(), abs=0.002)
    assert means.std() == pytest.approx(sums.std() / 20, rel=0.03)


def test_a_single_premise_says_nothing_about_others() -> None:
    assert macro_f1_interval(GOLD, SAID, np.zeros(600, dtype=int), 3, seed=1) == (0.0, 1.0)
