"""Calibration: hand-computed cases, and recovery of a known temperature."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from toolkit.evaluation.calibration import (
    apply_temperature,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    probability_scores,
    reliability_bins,
)
from toolkit.evaluation.plots import plot_reliability


def draw_scores(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw log-probabilities, and gold labels according to them, so that the scores are perfectly calibrated."""
    rng = np.random.default_rng(seed)
    log_probabilities = log_softmax(rng.normal(size=(rows, 3)) * 2, axis=1)
    return log_probabilities, (rng.random((rows, 1)) > np.exp(log_probabilities).cumsum(axis=1)).sum(axis=1)


def test_calibration_error_weights_bins_by_rows() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.55, 0.45]])
    # Three rows in (14/15, 1]: accuracy 2/3; one in (8/15, 9/15]: accuracy 1.
    expected = 0.75 * abs(2 / 3 - 0.95) + 0.25 * abs(1 - 0.55)
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 0])) == pytest.approx(expected)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_bins_include_their_upper_edge() -> None:
    bins = reliability_bins(np.array([[0.5, 0.5], [0.51, 0.49]]), np.array([0, 1]), bins=2)
    assert bins.counts.tolist() == [1, 1]
    assert (bins.confidence.tolist(), bins.accuracy.tolist()) == ([0.5, 0.51], [1.0, 0.0])


def test_nll_and_brier_match_hand_computation() -> None:
    scores = probability_scores(np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]), np.array([0, 1]))
    assert scores.nll == pytest.approx(-(np.log(0.7) + np.log(0.25)) / 2)
    assert scores.brier == pytest.approx((0.09 + 0.04 + 0.01 + 0.0625 + 0.5625 + 0.25) / 2)


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_known_temperature_is_recovered(known: float) -> None:
    log_probabilities, gold = draw_scores(20_000, seed=0)
    assert fit_temperature(log_probabilities * known, gold) == pytest.approx(known, rel=0.03)


def test_uninformative_scores_become_uniform() -> None:
    """Confident scores that have nothing to do with the gold labels are softened to nearly uniform ones."""
    log_probabilities, gold = draw_scores(3000, seed=6)
    calibration = calibrate((log_probabilities, np.roll(gold, 1)), (log_probabilities, np.roll(gold, 1)))
    assert calibration.before.nll > 2 and not calibration.is_at_lower_bound
    assert calibration.after.nll == pytest.approx(np.log(3), abs=0.02) and calibration.after.ece < 0.05


def test_temperature_ignores_offsets_per_row() -> None:
    """A constant added to all log-likelihoods of a row changes neither the fit nor the probabilities."""
    log_probabilities, gold = draw_scores(300, seed=1)
    shifted = log_probabilities - np.linspace(0, 50, 300)[:, None]
    assert fit_temperature(shifted, gold) == pytest.approx(fit_temperature(log_probabilities, gold), rel=1e-4)
    assert np.allclose(apply_temperature(shifted, 3.0), apply_temperature(log_probabilities, 3.0))


@pytest.mark.parametrize("confidence", [1, 20, 1000])
def test_perfect_rows_end_at_lower_bound(confidence: float) -> None:
    """They do so even if they are so confident that the likelihood is exactly 1 at many temperatures."""
    rows = np.log([[0.9, 0.1], [0.2, 0.8]]) * confidence, np.array([0, 1])
    assert fit_temperature(*rows) == 0.05
    assert calibrate(rows, rows).is_at_lower_bound and not calibrate(draw_scores(300, 5), rows).is_at_lower_bound


def test_calibration_fixes_overconfidence() -> None:
    """Calibration improves all scores of an overconfident model and does not change its answers."""
    calibration_set, evaluation = draw_scores(3000, seed=2), draw_scores(3000, seed=3)
    overconfident = [(log_probabilities * 3, gold) for log_probabilities, gold in (calibration_set, evaluation)]
    calibration = calibrate(*overconfident)
    assert calibration.rows == 3000 and calibration.temperature == pytest.approx(3, rel=0.1)
    assert calibration.before == probability_scores(log_softmax(overconfident[1][0], axis=1), evaluation[1])
    assert calibration.after.nll < calibration.before.nll and calibration.after.brier < calibration.before.brier
    assert calibration.after.ece < 0.03 < calibration.before.ece
    after = apply_temperature(overconfident[1][0], calibration.temperature)
    assert (after.argmax(axis=1) == evaluation[0].argmax(axis=1)).all()


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 2.0]])
def test_reliability_diagram_is_a_png(tmp_path: Path, temperatures: list[float]) -> None:
    log_probabilities, gold = draw_scores(50, seed=4)
    panels = {str(t): reliability_bins(np.exp(apply_temperature(log_probabilities, t)), gold) for t in temperatures}
    plot_reliability(panels, "adapter", tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
