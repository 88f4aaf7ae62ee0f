"""Cross-fitted calibration: each row is calibrated with the temperature of the half that it is not in."""

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import log_loss

from tests.evaluation.run_files import LABELS, make_predictions, make_run, write_evaluation
from tests.evaluation.test_calibration import draw_scores
from toolkit.data.example import Example
from toolkit.evaluation.calibration import apply_temperature, probability_scores
from toolkit.evaluation.cross_fitting import assign_halves, cross_fit, cross_fit_evaluation
from toolkit.evaluation.evaluation import load_evaluation
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.evaluation.metrics import Predictions

ALTERNATING = np.arange(400) % 2 == 1


def evaluation_of(
    scores: np.ndarray, gold: np.ndarray, groups: list[str], merged: MergedLabels | None = None
) -> tuple[list[Example], Predictions]:
    merged = merged or MergedLabels(LABELS, {})
    names = merged.names
    examples = [Example(str(i), {"premise": groups[i]}, names[g]) for i, g in enumerate(gold)]
    predicted = [names[i] for i in merged.log_probabilities(scores).argmax(axis=1)]
    return examples, Predictions(names, [*predicted], scores, merged=merged)


def fit_inverse_temperature(scores: np.ndarray, gold: np.ndarray) -> float:
    """Fit 1/T as the single weight of a logistic regression, for which the likelihood is convex."""

    def nll(inverse: np.ndarray) -> float:
        return float((logsumexp(inverse * scores, axis=1) - inverse * scores[np.arange(len(gold)), gold]).mean())

    return float(minimize(nll, x0=[1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x[0])


def test_halves_are_fitted_independently() -> None:
    """The result equals two fits by hand, each applied to the other half, with scikit-learn's log loss."""
    log_probabilities, gold = draw_scores(400, seed=1)
    scores = np.where(ALTERNATING[:, None], 3.0, 1.5) * log_probabilities
    result = cross_fit(scores, gold, ALTERNATING)
    inverse = [fit_inverse_temperature(scores[half], gold[half]) for half in (~ALTERNATING, ALTERNATING)]
    assert result.temperatures == pytest.approx([1 / value for value in inverse], rel=1e-4)
    calibrated = log_softmax(scores * np.where(ALTERNATING, inverse[0], inverse[1])[:, None], axis=1)
    assert result.scores.nll == pytest.approx(log_loss(gold, np.exp(calibrated)), abs=1e-6)
    expected = probability_scores(calibrated, gold)
    assert (result.scores.ece, result.scores.brier) == pytest.approx((expected.ece, expected.brier), abs=1e-4)
    assert result.rows == (200, 200) and result.temperatures[1] > 1.5 * result.temperatures[0]


def test_overconfident_scores_improve() -> None:
    log_probabilities, gold = draw_scores(4000, seed=2)
    result = cross_fit(log_probabilities * 3, gold, np.arange(4000) % 2 == 1)
    before = probability_scores(apply_temperature(log_probabilities * 3, 1.0), gold)
    assert result.scores.nll < before.nll and result.scores.brier < before.brier
    assert result.scores.ece < 0.03 < before.ece
    assert result.temperatures == pytest.approx((3, 3), rel=0.1)


def test_calibrated_model_keeps_its_scores() -> None:
    """Cross-fitting does not flatter: it costs a perfectly calibrated model a little, and never gains much."""
    log_probabilities, gold = draw_scores(4000, seed=3)
    before = probability_scores(log_probabilities, gold)
    result = cross_fit(log_probabilities, gold, np.arange(4000) % 2 == 1)
    assert result.scores.nll == pytest.approx(before.nll, abs=0.002)
    assert result.temperatures == pytest.approx((1, 1), abs=0.1)


def test_no_row_affects_its_own_temperature() -> None:
    """Other gold labels in one half change only the temperature that the other half gets."""
    scores, gold = draw_scores(400, seed=4)
    other_gold = np.where(ALTERNATING, np.roll(gold, 1), gold)
    before, after = cross_fit(scores, gold, ALTERNATING), cross_fit(scores, other_gold, ALTERNATING)
    assert after.temperatures[0] == before.temperatures[0]
    assert after.temperatures[1] > before.temperatures[1] + 0.5


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle_halves(seed: int) -> None:
    """Groups of 1 to 9 rows stay in one piece, and the halves have nearly the same number of rows."""
    groups = [f"premise {i}" for i in range(40) for _ in range(1 + i % 9)]
    is_second = assign_halves(groups, seed)
    halves = [{group for group, second in zip(groups, is_second, strict=True) if second == half} for half in (0, 1)]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 40
    assert abs(is_second.sum() - (~is_second).sum()) <= 1


def test_split_depends_on_seed_only() -> None:
    """The same groups are together in any order of the rows, and another seed splits them differently."""
    groups = [f"premise {i // 3}" for i in range(90)]
    shuffled = random.Random(0).sample(groups, len(groups))
    halves = dict(zip(groups, assign_halves(groups, 1).tolist(), strict=True))
    assert halves == dict(zip(shuffled, assign_halves(shuffled, 1).tolist(), strict=True))
    assert halves != dict(zip(groups, assign_halves(groups, 2).tolist(), strict=True))


def test_row_order_does_not_matter() -> None:
    scores, gold = draw_scores(300, seed=5)
    groups = [f"premise {i // 3}" for i in range(300)]
    order = np.random.default_rng(0).permutation(300)
    first, _ = cross_fit_evaluation(*evaluation_of(scores, gold, groups), seed=7)
    second, _ = cross_fit_evaluation(*evaluation_of(scores[order], gold[order], [groups[i] for i in order]), seed=7)
    assert first and second and first.rows == second.rows == (150, 150)
    assert first.temperatures == pytest.approx(second.temperatures, rel=1e-5)
    for key in ("nll", "ece", "brier"):
        assert first.record()[key] == pytest.approx(second.record()[key], abs=1e-5)


def test_merged_labels_are_calibrated_as_measured() -> None:
    """The temperatures maximize the likelihood of the merged labels, which are those of the gold rows."""
    merged = MergedLabels(LABELS, {"not_entailment": LABELS[1:]})
    log_probabilities, gold = draw_scores(3000, seed=6)
    scores, groups = log_probabilities * 2, [str(i) for i in range(3000)]
    result, warnings = cross_fit_evaluation(*evaluation_of(scores, np.minimum(gold, 1), groups, merged), seed=1)
    assert result and not warnings and result.temperatures == pytest.approx((2, 2), rel=0.15)
    raw = probability_scores(merged.log_probabilities(scores), np.minimum(gold, 1))
    assert result.scores.nll < raw.nll and result.scores.ece < raw.ece


@pytest.mark.parametrize(
    ("rows", "warning"), [(1, "but there is only one row."), (5, "but there is only one premise.")]
)
def test_single_group_is_not_split(rows: int, warning: str) -> None:
    scores, gold = draw_scores(rows, seed=7)
    result, (message,) = cross_fit_evaluation(*evaluation_of(scores, gold, ["p"] * rows), seed=1)
    assert result is None and message.endswith(warning)


def test_errorless_halves_have_no_temperature() -> None:
    """A half without errors would make the other half as confident as possible, so there is no result."""
    scores, gold = draw_scores(40, seed=8)
    groups = [f"premise {i}" for i in range(40)]
    examples, predictions = evaluation_of(scores, scores.argmax(axis=1), groups)
    result, (message,) = cross_fit_evaluation(examples, predictions, seed=1)
    assert result is None and "the 20 and 20 rows of the two halves have too few errors" in message
    gold = np.where(assign_halves(groups, 1), scores.argmax(axis=1), gold)
    result, (message,) = cross_fit_evaluation(*evaluation_of(scores, gold, groups), seed=1)
    assert result is None and "the 20 rows of one half have too few errors" in message


def test_free_answers_have_no_calibration() -> None:
    examples, predictions = make_predictions(9)
    free = Predictions(predictions.labels, predictions.predicted, None, ["neutral"] * 9)
    assert cross_fit_evaluation(examples, free, seed=1) == (None, [])


def test_report_shows_scores_and_temperatures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    fitted = {"temperatures": [1.25, 1.5], "rows": [45, 45], "nll": 0.4321, "ece": 0.0123, "brier": 0.2222}
    write_evaluation(run, "adapter", cross_fitted_calibration=fitted, calibration=None, warnings=[])
    write_evaluation(run, "base", cross_fitted_calibration=None, calibration=None, warnings=[])
    evaluation, without = load_evaluation(run.eval / "adapter"), load_evaluation(run.eval / "base")
    assert (evaluation.calibrated_nll, evaluation.calibrated_ece) == (0.4321, 0.0123)
    assert (
        "calibrated (cross-fitted): nll 0.4321; ece 0.0123; brier 0.2222; temperatures 1.250 and 1.500"
        in evaluation.report()
    )
    assert without.calibrated_nll is without.calibrated_ece is None and "cross-fitted" not in without.report()
