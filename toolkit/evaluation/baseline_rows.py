"""The answers of the baselines on rows that a run was evaluated on, for paired tests."""

from dataclasses import replace

import numpy as np

from toolkit.data.examples import fingerprint
from toolkit.data.splits import load_splits
from toolkit.errors import DataError
from toolkit.evaluation.baselines import ALL_INPUTS, HYPOTHESIS_ONLY, PREMISE_HYPOTHESIS, baseline_predictions
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.evaluation.prediction_files import EvaluatedRows
from toolkit.runs.trained_run import TrainedRun

_NAMES = {
    "majority": "majority",
    HYPOTHESIS_ONLY: "hypothesis-only",
    PREMISE_HYPOTHESIS: "TF-IDF pair",
    ALL_INPUTS: "TF-IDF",
}


def baseline_rows(rows: EvaluatedRows) -> dict[str, EvaluatedRows]:
    """Return the answers of each baseline on the rows of an evaluation, fitted on the training rows of its run.

    Args:
        rows: An evaluation in the folder of a run.

    Raises:
        DataError: If the training rows cannot be read, or the evaluation rows are not those that were evaluated.
    """
    overrides = rows.metrics.get("overrides") or {}
    if "data.eval.path" in overrides:  # a share of the training rows is not what was evaluated
        overrides = {**overrides, "data.eval_share": 0.0}
    run = TrainedRun.open(rows.folder.parent.parent, overrides)
    splits = load_splits(run.recipe, is_external=True, trained_recipe=run.saved_recipe)
    merged = MergedLabels.of(run.recipe)
    train, evaluation = merged.rename(splits.train), merged.rename(splits.eval)
    codes = {label: code for code, label in enumerate(rows.labels)}
    recorded = {"eval": rows.metrics.get("data", {}), "train": run.record.get("data", {}).get("train", {})}
    for name, current in (("eval", splits.eval), ("train", splits.train)):
        if recorded[name].get("fingerprint") not in (None, fingerprint(current)):
            raise DataError(
                f"The rows of data.{name} have changed since {rows.name} was made, so the baselines cannot be "
                "measured.",
                hint="Restore the file, or train and evaluate again.",
            )
    return {
        _NAMES.get(name, name.replace("_", "-")): replace(
            rows, name=name, predicted=np.array([codes[label] for label in predicted])
        )
        for name, predicted in baseline_predictions(train, evaluation).items()
    }
