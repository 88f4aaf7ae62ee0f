"""A saved evaluation: the metrics and predictions of one model on one dataset."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from toolkit.errors import RunError
from toolkit.evaluation.prediction_files import evaluated_inputs
from toolkit.evaluation.text_report import text_report
from toolkit.runs.evaluation_seal import verify_evaluation
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.seal import find_accepted_changes
from toolkit.runs.trained_run import TrainedRun

logger = logging.getLogger(__name__)

MERGE_KEY = "evaluation.merge_labels"
_MODELS = ("adapter", "base", "merged")
# Types of the fields that reports and comparisons use: a damaged file fails here with a clear message.
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "n": int, "labels": list, "model": str, "accuracy": (int, float), "per_label": dict, "confusion_matrix": list,
    "macro": dict, "weighted": dict,
}  # fmt: skip
_OPTIONAL = {
    "inputs": list, "merge_labels": dict, "data": dict, "overrides": dict, "mode": str, "shots": int, "baselines": dict,
    "warnings": list, "cross_fitted_calibration": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The metrics and predictions of one model on one dataset: a folder in eval/.

    Args:
        name: The folder's name: <model>, or <model>@<data>[-free][-shotsK][-set<digest>][-limitN].
        folder: The path of the folder.
        metrics: The contents of its metrics.json.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """The share of rows that are predicted correctly."""
        return float(self.metrics["accuracy"])

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The Wilson 95% interval of the accuracy."""
        low, high = self.metrics["accuracy_ci95"]
        return low, high

    @property
    def macro_f1(self) -> float:
        """The unweighted mean of the F1 scores of the labels that occur in the evaluation rows."""
        return float(self.metrics["macro"]["f1"])

    @property
    def macro_f1_interval(self) -> tuple[float, float]:
        """A 95% bootstrap interval of the macro F1, resampling groups of rows with the same first input."""
        low, high = self.metrics["macro_f1_ci95"]
        return low, high

    @property
    def nll(self) -> float | None:
        """The mean negative log-likelihood of the gold label, in nats; None for free generation."""
        return self.metrics.get("nll")

    @property
    def ece(self) -> float | None:
        """The expected calibration error; None for free generation."""
        return self.metrics.get("ece")

    @property
    def brier(self) -> float | None:
        """The Brier score, from 0 to 2; None for free generation."""
        return self.metrics.get("brier")

    @property
    def calibrated_nll(self) -> float | None:
        """The `nll` after temperature scaling, cross-fitted; None if it was not computed."""
        return (self.metrics.get("cross_fitted_calibration") or {}).get("nll")

    @property
    def calibrated_ece(self) -> float | None:
        """The `ece` after temperature scaling, cross-fitted; None if it was not computed."""
        return (self.metrics.get("cross_fitted_calibration") or {}).get("ece")

    @property
    def n(self) -> int:
        """The number of rows."""
        return int(self.metrics["n"])

    @property
    def labels(self) -> list[str]:
        """The classes, in the recipe's order."""
        return list(self.metrics["labels"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs of its rows, e.g. premise and hypothesis."""
        return evaluated_inputs(self.metrics)

    @property
    def baselines(self) -> dict[str, float]:
        """The accuracies of the baselines, by name."""
        return dict(self.metrics.get("baselines") or {})

    @property
    def warnings(self) -> list[str]:
        """Warnings that qualify the accuracy."""
        return list(self.metrics.get("warnings") or [])

    def report(self) -> str:
        """Return the results as text for a terminal."""
        return text_report(self.metrics)

    def __repr__(self) -> str:
        return f"Evaluation({self.name}: accuracy {self.accuracy:.4f} on {self.n:,} rows)"

    @property
    def uses_run_recipe(self) -> bool:
        """True if it used the run's own rows and recipe, except for keys that do not change answers."""
        return not any(changes_answers(key) for key in self.overrides)

    @property
    def is_plain(self) -> bool:
        """True if it used constrained decoding, no shots, and no overrides except those of the evaluation rows."""
        return self._is_plain_except("data.eval.")

    def _is_plain_except(self, *prefixes: str) -> bool:
        changed = [key for key in self.overrides if changes_answers(key) and not key.startswith(prefixes)]
        return self.mode == "constrained" and not self.shots and not changed

    @property
    def limit(self) -> int | None:
        """The N of an evaluation that scored only the first N rows, else None."""
        return self.overrides.get("data.eval.limit")

    @property
    def overrides(self) -> dict[str, Any]:
        """The recipe keys that were changed for this evaluation, with their values."""
        return dict(self.metrics.get("overrides") or {})

    @property
    def source(self) -> str:
        """The source of its rows."""
        return str(self.metrics.get("data", {}).get("source", ""))

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of its rows (`data.examples.fingerprint`)."""
        return self.metrics.get("data", {}).get("fingerprint")

    @property
    def mode(self) -> str:
        """The decoding mode, constrained or free."""
        return str(self.metrics.get("mode", "constrained"))

    @property
    def shots(self) -> int:
        """The number of few-shot examples in each prompt."""
        return int(self.metrics.get("shots") or 0)

    @property
    def chance(self) -> float:
        """The expected accuracy of a uniform guess."""
        return 1 / len(self.metrics["labels"])

    @property
    def predictions(self) -> Path:
        """The path of its predictions.jsonl."""
        return self.folder / "predictions.jsonl"


def load_evaluations(run: TrainedRun, *, exclude: Path | None = None) -> list[Evaluation]:
    """Load all evaluations of a run, those of its own rows first, in the order adapter, base, merged, GGUF files.

    Args:
        run: The run whose eval/ is read.
        exclude: The folder of an evaluation to leave out.

    Raises:
        RunError: If a metrics.json is damaged.
        SealError: If an evaluation has changed since it was made, or was not made by this run.
    """
    # A folder that is still being written has a name that starts with a dot (`atomic_path`).
    folder = run.folder.eval
    folders = [path for path in folder.glob("*") if path.name[0] != "." and path != exclude]
    evaluations = [load_evaluation(path) for path in folders if os.path.lexists(path / "metrics.json")]
    for evaluation in evaluations:
        verify_evaluation(run, evaluation.folder, evaluation.metrics)
    unchanged = [evaluation for evaluation in evaluations if not _is_left_out(run, evaluation)]
    return sorted(unchanged, key=_sort_key)


def _is_left_out(run: TrainedRun, evaluation: Evaluation) -> bool:
    """Return whether an evaluation is that of a changed model that was accepted then, but not now, and log a warning.

    It is no reason to refuse a command: the original model can be back.
    """
    changes = find_accepted_changes(evaluation.folder / "metrics.json", evaluation.metrics)
    if changes and not run.accept_changes:
        logger.warning("WARNING: %s It is left out.", changes[0])
    return bool(changes) and not run.accept_changes


def load_evaluation(folder: Path) -> Evaluation:
    """Load one evaluation.

    Raises:
        RunError: If its metrics.json is missing or damaged.
    """
    path = folder / "metrics.json"
    metrics = read_json_object(path)
    hint = "Evaluate again, or remove the file."
    if missing := [key for key in _REQUIRED if key not in metrics]:
        raise RunError(f"{path} has no field {missing[0]!r}, so it is not an evaluation.", hint=hint)
    mistyped = [key for key, expected_type in _REQUIRED.items() if not isinstance(metrics[key], expected_type)]
    mistyped += [
        key for key, expected_type in _OPTIONAL.items() if not isinstance(metrics.get(key), (expected_type, NoneType))
    ]
    if mistyped:
        raise RunError(
            f"{path} is damaged: field {mistyped[0]!r} is a {type(metrics[mistyped[0]]).__name__}.", hint=hint
        )
    return Evaluation(folder.name, folder, metrics)


def _sort_key(evaluation: Evaluation) -> tuple[bool, int, str]:
    model = evaluation.metrics["model"]
    return not evaluation.uses_run_recipe, _MODELS.index(model) if model in _MODELS else len(_MODELS), evaluation.name


def main_evaluation(evaluations: list[Evaluation]) -> Evaluation | None:
    """Return the evaluation that represents the run: the adapter's on the run's own rows, else the first."""
    return next(
        (evaluation for evaluation in evaluations if evaluation.name == "adapter"), next(iter(evaluations), None)
    )


def changes_answers(key: str) -> bool:
    """Return whether a key of the recipe changes answers or their labels, and not only speed and reports."""
    return not key.startswith(("evaluation.", "data.dev")) or key == MERGE_KEY


def base_zero_shot(
    evaluations: Iterable[Evaluation], fingerprint: str | None, merge_labels: dict[str, list[str]] | None = None
) -> dict[str, float]:
    """Return the base model's accuracy on the same rows as a baseline, or an empty dictionary if it was not evaluated.

    Args:
        evaluations: The evaluations of a run. Only the base with constrained decoding, without shots and with the
            run's own prompt counts.
        fingerprint: The fingerprint of the rows (`data.examples.fingerprint`).
        merge_labels: The labels that are measured as one, as in metrics.json.

    Returns:
        `{"base_zero_shot": accuracy}` or `{}`.
    """
    for evaluation in evaluations:
        if (
            evaluation.metrics["model"] == "base"
            and evaluation._is_plain_except("data.eval.", MERGE_KEY)
            and fingerprint
            and evaluation.fingerprint == fingerprint
            and evaluation.metrics.get("merge_labels") == merge_labels
        ):
            return {"base_zero_shot": evaluation.metrics["accuracy"]}
    return {}


def with_base_zero_shot(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Add the base model's zero-shot accuracy to the baselines of each evaluation.

    The base may have been evaluated after the others, so their metrics.json does not have it.
    """
    return [
        _add_baseline(
            evaluation,
            base_zero_shot(evaluations, evaluation.fingerprint, evaluation.metrics.get("merge_labels")),
        )
        for evaluation in evaluations
    ]


def _add_baseline(evaluation: Evaluation, baseline: dict[str, float]) -> Evaluation:
    baselines = evaluation.metrics.get("baselines")
    if not baselines or evaluation.metrics["model"] == "base":
        return evaluation
    return replace(evaluation, metrics=evaluation.metrics | {"baselines": baselines | baseline})
