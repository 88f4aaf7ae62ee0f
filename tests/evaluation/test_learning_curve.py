"""Fits of learning curves: laws are recovered from the errors that they predict."""

import numpy as np
import pytest

from toolkit.evaluation.learning_curve import PowerLaw, fit_learning_curve, fit_power_law

SIZES = [250, 500, 1000, 2000, 4000]


@pytest.mark.parametrize("law", [PowerLaw(2.0, 0.3, 0.1), PowerLaw(5.0, 0.5, 0.0), PowerLaw(0.4, 0.05, 0.2)])
def test_law_is_recovered_from_its_errors(law: PowerLaw) -> None:
    errors = np.array([law.error(size) for size in SIZES])
    fitted = fit_power_law(SIZES, errors)
    # The parameters trade off against each other in a flat curve, but the predictions must agree.
    assert fitted.error(40_000) == pytest.approx(law.error(40_000), abs=0.01)
    assert [fitted.error(size) for size in SIZES] == pytest.approx(errors.tolist(), abs=1e-3)


def test_three_sizes_have_no_irreducible_error() -> None:
    law = PowerLaw(3.0, 0.4, 0.0)
    fitted = fit_power_law(SIZES[:3], np.array([law.error(size) for size in SIZES[:3]]))
    assert fitted.irreducible == 0 and fitted.exponent == pytest.approx(0.4, abs=1e-3)


def test_worse_results_with_more_rows_predict_no_gain() -> None:
    fitted = fit_power_law(SIZES, np.array([0.3, 0.31, 0.32, 0.33, 0.34]))
    assert fitted.exponent == pytest.approx(0, abs=1e-3) and fitted.error(40_000) == pytest.approx(0.32, abs=1e-3)


def test_learning_curve_predicts_its_largest_size() -> None:
    law, rows = PowerLaw(2.0, 0.3, 0.05), 4000
    # Row i is wrong at a size if its rank is below the error, so that errors of the sizes are exact and nested.
    ranks = np.random.default_rng(0).permutation(rows) / rows
    correct = np.stack([(ranks >= law.error(size)).astype(float) for size in SIZES])
    curve = fit_learning_curve(SIZES, correct, np.arange(rows) // 2, majority_accuracy=0.5)
    assert curve.accuracies == pytest.approx([1 - law.error(size) for size in SIZES], abs=1e-3)
    assert curve.predicted_largest == pytest.approx(curve.accuracies[-1], abs=0.01)
    assert curve.predicted_tenfold == pytest.approx(1 - law.error(40_000), abs=0.01)
    low, high = curve.predicted_tenfold_interval
    assert low < curve.predicted_tenfold < high
    assert (
        fit_learning_curve(SIZES[:3], correct[:3], np.arange(rows) // 2, majority_accuracy=0.5).predicted_largest
        is None
    )
    assert curve.sizes_at_majority == ()
    # The two smallest sizes have accuracies of 57% and 64%.
    assert fit_learning_curve(SIZES, correct, np.arange(rows) // 2, majority_accuracy=0.65).sizes_at_majority == (
        250,
        500,
    )
