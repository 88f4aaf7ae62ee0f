"""Calibration against cases worked by hand and against a temperature that is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.data.splits import Overlap, Splits
from toolkit.evaluation.calibration import (
    apply_temperature,
    calibrate,
    calibration_rows,
    expected_calibration_error,
    fit_temperature,
    probability_scores,
    reliability_bins,
)
from toolkit.evaluation.plots import plot_reliability
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and gold labels that were drawn from them."""
    rng = np.random.default_rng(seed)
    log_probabilities = log_softmax(rng.normal(size=(rows, 3)) * 2, axis=1)
    return log_probabilities, (rng.random((rows, 1)) > np.exp(log_probabilities).cumsum(axis=1)).sum(axis=1)


def test_calibration_error_weighs_bins_by_their_rows() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.55, 0.45]])
    # Three rows in (14/15, 1]: accuracy 2/3; one in (8/15, 9/15]: accuracy 1.
    expected = 0.75 * abs(2 / 3 - 0.95) + 0.25 * abs(1 - 0.55)
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 0])) == pytest.approx(expected)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_bin_holds_its_upper_edge() -> None:
    bins = reliability_bins(np.array([[0.5, 0.5], [0.51, 0.49]]), np.array([0, 1]), bins=2)
    assert bins.counts.tolist() == [1, 1]
    assert (bins.confidence.tolist(), bins.accuracy.tolist()) == ([0.5, 0.51], [1.0, 0.0])


def test_likelihood_and_brier_score_of_a_case_worked_by_hand() -> None:
    scores = probability_scores(np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]), np.array([0, 1]))
    assert scores.nll == pytest.approx(-(np.log(0.7) + np.log(0.25)) / 2)
    assert scores.brier == pytest.approx((0.09 + 0.04 + 0.01 + 0.0625 + 0.5625 + 0.25) / 2)


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(known: float) -> None:
    log_probabilities, gold = drawn(20_000, seed=0)
    assert fit_temperature(log_probabilities * known, gold) == pytest.approx(known, rel=0.03)


def test_a_model_that_knows_nothing_is_told_to_say_so() -> None:
    log_probabilities, gold = drawn(3000, seed=6)
    found = calibrate((log_probabilities, np.roll(gold, 1)), (log_probabilities, np.roll(gold, 1)))
    assert found.before.nll > 2 and not found.is_at_lower_bound
    assert found.after.nll == pytest.approx(np.log(3), abs=0.02) and found.after.ece < 0.05


def test_a_constant_added_to_a_rows_likelihoods_changes_nothing() -> None:
    log_probabilities, gold = drawn(300, seed=1)
    shifted = log_probabilities - np.linspace(0, 50, 300)[:, None]
    assert fit_temperature(shifted, gold) == pytest.approx(fit_temperature(log_probabilities, gold), rel=1e-4)
    assert np.allclose(apply_temperature(shifted, 3.0), apply_temperature(log_probabilities, 3.0))


def test_rows_that_are_all_right_end_at_the_coldest_temperature() -> None:
    rows = np.log([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])
    assert fit_temperature(*rows) == pytest.approx(0.05, rel=1e-3)
    assert calibrate(rows, rows).is_at_lower_bound and not calibrate(drawn(300, 5), rows).is_at_lower_bound


def test_calibrating_mends_a_model_that_is_too_sure_and_moves_no_answer() -> None:
    calibration_set, evaluation = drawn(3000, seed=2), drawn(3000, seed=3)
    too_sure = [(log_probabilities * 3, gold) for log_probabilities, gold in (calibration_set, evaluation)]
    found = calibrate(*too_sure)
    assert found.rows == 3000 and found.temperature == pytest.approx(3, rel=0.1)
    assert found.before == probability_scores(log_softmax(too_sure[1][0], axis=1), evaluation[1])
    assert found.after.nll < found.before.nll and found.after.brier < found.before.brier
    assert found.after.ece < 0.03 < found.before.ece
    after = apply_temperature(too_sure[1][0], found.temperature)
    assert (after.argmax(axis=1) == evaluation[0].argmax(axis=1)).all()


def test_rows_that_may_have_been_trained_on_are_not_fitted_on(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe()
    train, held, scored = ([Example(f"{p}{i}", f"{p}{i}", "h", "neutral") for i in range(3)] for p in "the")
    folder, splits = RunFolder(tmp_path), Splits(train, scored, Overlap(0, 0, 0), held)
    for record in ({}, {"data": {}}, {"data": {"calibration": {"fingerprint": fingerprint(train)}}}):
        write_json(folder.run_json, record)
        rows, (warning,) = calibration_rows(TrainedRun(folder, "", recipe, recipe), splits)
        assert rows == [] and "may have been trained on" in warning
    write_json(folder.run_json, {"data": {"calibration": {"fingerprint": fingerprint(held)}}})
    run = TrainedRun(folder, "", recipe, recipe)
    assert calibration_rows(run, splits) == (held, [])
    assert calibration_rows(run, replace(splits, eval=held[1:])) == (held[:1], [])
    none, (warning,) = calibration_rows(run, replace(splits, eval=held))
    assert none == [] and "every premise" in warning
    assert calibration_rows(run, replace(splits, calibration_set=[])) == ([], [])


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 2.0]])
def test_the_reliability_diagram_is_a_picture(tmp_path: Path, temperatures: list[float]) -> None:
    log_probabilities, gold = drawn(50, seed=4)
    panels = {str(t): reliability_bins(np.exp(apply_temperature(log_probabilities, t)), gold) for t in temperatures}
    plot_reliability(panels, "adapter", tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
