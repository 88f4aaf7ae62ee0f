"""The calibration set: rows that the model was not trained on, on which its temperature is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.data.splits import Splits
from toolkit.evaluation.calibration import Calibration, calibrate, label_indices
from toolkit.evaluation.metrics import Predictions
from toolkit.recipe.data_section import DataSection
from toolkit.runs.imported import ImportedAdapter
from toolkit.runs.trained_run import TrainedRun


@dataclass(frozen=True)
class CalibrationSet:
    """Rows to fit a temperature on.

    Args:
        rows: The rows, possibly none.
        source: The origin of the rows: `calibration_share`, or `dev` for data.dev and data.dev_share.
    """

    rows: list[Example] = field(default_factory=list)
    source: Literal["calibration_share", "dev"] = "calibration_share"

    def calibrate(
        self, log_likelihoods: np.ndarray | None, examples: Sequence[Example], predictions: Predictions
    ) -> tuple[Calibration | None, list[str]]:
        """Fit a temperature and measure its effect on the evaluation rows.

        Args:
            log_likelihoods: [rows, labels], the scores of the calibration set, or None if it was not scored.
            examples: The evaluation rows.
            predictions: The predictions for these rows.

        Returns:
            The result, or None and a warning if the calibration set does not determine a temperature.
        """
        if log_likelihoods is None or predictions.log_likelihoods is None:
            return None, []
        calibration = calibrate(
            (log_likelihoods, label_indices([row.label for row in self.rows], predictions.merged.labels)),
            (predictions.log_likelihoods, label_indices([row.label for row in examples], predictions.labels)),
            predictions.merged.log_probabilities,
        )
        if not calibration.is_at_lower_bound:
            return calibration, []
        advice = "Use more dev rows." if self.source == "dev" else "Raise data.calibration_share."
        return None, [
            f"No temperature was fitted: the model is right on all {calibration.rows} calibration rows, so they "
            f"cannot show overconfidence. {advice}"
        ]


def select_calibration_set(run: TrainedRun, splits: Splits) -> tuple[CalibrationSet, list[str]]:
    """Return the held-out rows to fit a temperature on, without groups that are also evaluated (see `Example.group`).

    These are the rows of data.calibration_share, or without them the dev rows.

    Returns:
        The calibration set, and a warning if the recipe asks for one but there are no rows to use.
    """
    if splits.calibration_set:
        key, held_out = "calibration", CalibrationSet(splits.calibration_set)
    else:
        key, held_out = "dev", CalibrationSet(splits.dev, "dev")
    if not held_out.rows:
        return CalibrationSet(), []
    if key == "dev" and run.recipe.data.dev is None and ImportedAdapter.from_record(run.record):
        return CalibrationSet(), [
            "No temperature was fitted: the imported adapter may have been trained on the rows of data.dev_share."
        ]
    # The splits follow the recipe as it is now, which can differ from the recipe that the run was trained with.
    if run.record.get("data", {}).get(key, {}).get("fingerprint") != fingerprint(held_out.rows):
        return CalibrationSet(), [
            f"No temperature was fitted: {_describe_selection(run.recipe.data, held_out)} differ from those held out "
            "when the run was trained, so the model may have been trained on some of them."
        ]
    evaluated = {row.group for row in splits.eval}
    unseen = [row for row in held_out.rows if row.group not in evaluated]
    if not unseen:
        name = run.recipe.task.inputs[0]
        return CalibrationSet(), [
            f"No temperature was fitted: every held-out {name} also occurs in the evaluation rows."
        ]
    return CalibrationSet(unseen, held_out.source), []


def _describe_selection(data: DataSection, held_out: CalibrationSet) -> str:
    if held_out.source == "calibration_share":
        return "the calibration rows that data.train, data.calibration_share and seed select"
    if data.dev is not None:
        return "the dev rows in data.dev"
    return "the dev rows that data.train, data.dev_share and seed select"
