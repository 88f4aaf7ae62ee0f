"""The calibration set: only rows that were not trained on, and no group that is evaluated."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.nli import nli
from toolkit.data.examples import fingerprint
from toolkit.data.splits import Overlap, Splits
from toolkit.evaluation.calibration_set import CalibrationSet, select_calibration_set
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

TRAIN, HELD_OUT, EVAL = ([nli(f"{p}{i}", f"{p}{i}", "h", "neutral") for i in range(3)] for p in "tce")
NONE = CalibrationSet()
SplitsAndKey = tuple[Splits, str]


@pytest.fixture(params=["calibration", "dev"])
def held_out(request: pytest.FixtureRequest) -> SplitsAndKey:
    """Splits with held-out rows, and the key of run.json's data section that describes them."""
    field = "calibration_set" if request.param == "calibration" else "dev"
    return replace(Splits(TRAIN, EVAL, Overlap()), **{field: HELD_OUT}), request.param


def test_possibly_trained_rows_are_not_used(
    make_recipe: Callable[..., Recipe], tmp_path: Path, held_out: SplitsAndKey
) -> None:
    """A temperature is fitted only on rows that the run held out and on premises that are not evaluated."""
    recipe, folder, (splits, key) = make_recipe(), RunFolder(tmp_path), held_out
    for record in ({}, {"data": {}}, {"data": {key: {"fingerprint": fingerprint(TRAIN)}}}):
        write_json(folder.run_json, record)
        rows, (warning,) = select_calibration_set(TrainedRun(folder, "", recipe, recipe), splits)
        assert rows == NONE and "may have been trained on" in warning
    write_json(folder.run_json, {"data": {key: {"fingerprint": fingerprint(HELD_OUT)}}})
    run = TrainedRun(folder, "", recipe, recipe)
    source = "dev" if key == "dev" else "calibration_share"
    assert select_calibration_set(run, splits) == (CalibrationSet(HELD_OUT, source), [])
    assert select_calibration_set(run, replace(splits, eval=HELD_OUT[1:]))[0].rows == HELD_OUT[:1]
    rows, (warning,) = select_calibration_set(run, replace(splits, eval=HELD_OUT))
    assert rows == NONE and "every held-out premise" in warning
    assert select_calibration_set(run, Splits(TRAIN, EVAL, Overlap())) == (NONE, [])


def test_calibration_share_precedes_dev_rows(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Dev rows may have chosen the checkpoint, so rows that were held out only for calibration are better."""
    recipe, folder = make_recipe(), RunFolder(tmp_path)
    fingerprints = {"calibration": {"fingerprint": fingerprint(HELD_OUT)}, "dev": {"fingerprint": fingerprint(TRAIN)}}
    write_json(folder.run_json, {"data": fingerprints})
    splits = Splits([], EVAL, Overlap(), calibration_set=HELD_OUT, dev=TRAIN)
    calibration_set, _ = select_calibration_set(TrainedRun(folder, "", recipe, recipe), splits)
    assert calibration_set == CalibrationSet(HELD_OUT, "calibration_share")


@pytest.mark.parametrize(
    ("override", "warning"),
    [("data.dev_share=0.2", "the rows of data.dev_share"), ("data.dev={path: embedded:nli-fr, split: dev}", None)],
)
def test_imported_adapters_use_no_share(
    make_recipe: Callable[..., Recipe], tmp_path: Path, override: str, warning: str | None
) -> None:
    """An adapter from elsewhere may have been trained on any row of data.train."""
    recipe, folder = make_recipe(override), RunFolder(tmp_path)
    write_json(folder.run_json, {"imported": {}, "data": {"dev": {"fingerprint": fingerprint(HELD_OUT)}}})
    splits = Splits(TRAIN, EVAL, Overlap(), dev=HELD_OUT)
    calibration_set, warnings = select_calibration_set(TrainedRun(folder, "", recipe, recipe), splits)
    if warning:
        assert calibration_set == NONE and warning in warnings[0]
    else:
        assert calibration_set == CalibrationSet(HELD_OUT, "dev") and not warnings
