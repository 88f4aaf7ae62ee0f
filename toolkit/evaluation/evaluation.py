"""An evaluation: the metrics and predictions of one model on one data set, as its folder holds them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from toolkit.errors import RunError
from toolkit.evaluation.prediction_files import read_evaluation
from toolkit.evaluation.text_report import text_report
from toolkit.runs.run_folder import RunFolder, read_object

_MODELS = ("adapter", "base", "merged")
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "n": int, "labels": list, "model": str, "accuracy": (int, float), "per_label": dict, "confusion_matrix": list,
    "macro": dict, "weighted": dict,
}  # fmt: skip
_OPTIONAL = {"data": dict, "overrides": dict, "mode": str, "shots": int, "baselines": dict, "warnings": list}


@dataclass(frozen=True)
class Evaluation:
    """One model's metrics and predictions on one data set: a folder below eval/.

    Args:
        name: of the folder: <model>, or <model>@<data>[-free][-shotsK][-set<digest>][-limitN].
        folder: the folder.
        metrics: what its metrics.json holds.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """The share of rows whose prediction is the gold label."""
        return float(self.metrics["accuracy"])

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        low, high = self.metrics["accuracy_ci95"]
        return low, high

    @property
    def macro_f1(self) -> float:
        """The mean of the labels' F1."""
        return float(self.metrics["macro"]["f1"])

    @property
    def macro_f1_interval(self) -> tuple[float, float]:
        """A 95 % bootstrap interval of the macro F1, resampling premises."""
        low, high = self.metrics["macro_f1_ci95"]
        return low, high

    @property
    def nll(self) -> float | None:
        """The mean negative log-likelihood of the gold label, in nats; None for free answers."""
        return self.metrics.get("nll")

    @property
    def ece(self) -> float | None:
        """The expected calibration error; None for free answers."""
        return self.metrics.get("ece")

    @property
    def brier(self) -> float | None:
        """The Brier score, 0 to 2; None for free answers."""
        return self.metrics.get("brier")

    @property
    def n(self) -> int:
        """The number of rows."""
        return int(self.metrics["n"])

    @property
    def labels(self) -> list[str]:
        """The classes, in the recipe's order."""
        return list(self.metrics["labels"])

    @property
    def baselines(self) -> dict[str, float]:
        """Accuracies that are reached without the model, by name."""
        return dict(self.metrics.get("baselines") or {})

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing the accuracy."""
        return list(self.metrics.get("warnings") or [])

    def report(self) -> str:
        """Return the figures as text for a terminal; predictions.jsonl is read.

        Raises:
            DataError: predictions.jsonl is missing or damaged.
        """
        rows = read_evaluation(self.folder)
        names = [*rows.labels, ""]  # the code of no label is -1
        return text_report([names[i] for i in rows.gold], [names[i] for i in rows.predicted], self.metrics)

    def __repr__(self) -> str:
        return f"Evaluation({self.name}: accuracy {self.accuracy:.4f} of {self.n:,} rows)"

    @property
    def uses_run_recipe(self) -> bool:
        """Whether it has the run's own rows and recipe, however it was decoded."""
        return all(key.startswith("evaluation.") for key in self.overrides)

    @property
    def is_plain(self) -> bool:
        """Whether it is the model as shipped: decoded under constraint, without shots, nothing but the rows changed."""
        changed = [key for key in self.overrides if not key.startswith(("data.eval.", "evaluation."))]
        return self.mode == "constrained" and not self.shots and not changed

    @property
    def limit(self) -> int | None:
        """N where the first N rows alone were scored."""
        return self.overrides.get("data.eval.limit")

    @property
    def overrides(self) -> dict[str, Any]:
        """The recipe's keys that were changed for it, with their values."""
        return dict(self.metrics.get("overrides") or {})

    @property
    def source(self) -> str:
        """Where its rows came from."""
        return str(self.metrics.get("data", {}).get("source", ""))

    @property
    def fingerprint(self) -> str | None:
        """That of its rows."""
        return self.metrics.get("data", {}).get("fingerprint")

    @property
    def mode(self) -> str:
        """How its answers were decoded."""
        return str(self.metrics.get("mode", "constrained"))

    @property
    def shots(self) -> int:
        """Training rows shown in each prompt."""
        return int(self.metrics.get("shots") or 0)

    @property
    def chance(self) -> float:
        """The accuracy of a uniform guess."""
        return 1 / len(self.metrics["labels"])

    @property
    def predictions(self) -> Path:
        """Its predictions.jsonl."""
        return self.folder / "predictions.jsonl"


def load_evaluations(run: RunFolder, *, exclude: Path | None = None) -> list[Evaluation]:
    """All evaluations of a run: those of its own rows first, the adapter before base, merged and GGUFs.

    Args:
        run: its eval/ is read.
        exclude: the folder of one that is left out.

    Raises:
        RunError: a metrics.json is none.
    """
    # A folder that is being written has a name that begins with a dot.
    paths = [path for path in run.eval.glob("*/metrics.json") if path.parent.name[0] != "." and path.parent != exclude]
    return sorted((load_evaluation(path.parent) for path in paths), key=_sort_key)


def load_evaluation(folder: Path) -> Evaluation:
    """Read one evaluation.

    Raises:
        RunError: its metrics.json is missing or damaged.
    """
    path = folder / "metrics.json"
    metrics = read_object(path)
    hint = "Evaluate again, or remove it."
    if missing := [key for key in _REQUIRED if key not in metrics]:
        raise RunError(f"{path} has no {missing[0]!r}, so it is no evaluation.", hint=hint)
    mistyped = [key for key, expected_type in _REQUIRED.items() if not isinstance(metrics[key], expected_type)]
    mistyped += [
        key for key, expected_type in _OPTIONAL.items() if not isinstance(metrics.get(key), (expected_type, NoneType))
    ]
    if mistyped:
        raise RunError(
            f"{path} has a {type(metrics[mistyped[0]]).__name__} as {mistyped[0]!r}, so it is damaged.", hint=hint
        )
    return Evaluation(folder.name, folder, metrics)


def _sort_key(evaluation: Evaluation) -> tuple[bool, int, str]:
    model = evaluation.metrics["model"]
    return not evaluation.uses_run_recipe, _MODELS.index(model) if model in _MODELS else len(_MODELS), evaluation.name


def main_evaluation(evaluations: list[Evaluation]) -> Evaluation | None:
    """The one that speaks for the run: the adapter's on the run's own rows, else the first one there is."""
    return next(
        (evaluation for evaluation in evaluations if evaluation.name == "adapter"), next(iter(evaluations), None)
    )


def base_zero_shot(evaluations: Iterable[Evaluation], fingerprint: str | None) -> dict[str, float]:
    """`base_zero_shot`: the accuracy of the base model on the same rows, where it was measured; else nothing.

    Args:
        evaluations: of a run; what counts is of the base as it came: constrained, no shots, the run's own prompt.
        fingerprint: of the rows (`data.examples.fingerprint`).
    """
    for evaluation in evaluations:
        if (
            evaluation.metrics["model"] == "base"
            and evaluation.is_plain
            and fingerprint
            and evaluation.fingerprint == fingerprint
        ):
            return {"base_zero_shot": evaluation.metrics["accuracy"]}
    return {}


def with_base_zero_shot(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations, beside the base model as it is measured now: it may have been after them."""
    return [
        _add_baseline(evaluation, base_zero_shot(evaluations, evaluation.fingerprint)) for evaluation in evaluations
    ]


def _add_baseline(evaluation: Evaluation, baseline: dict[str, float]) -> Evaluation:
    baselines = evaluation.metrics.get("baselines")
    if not baselines or evaluation.metrics["model"] == "base":
        return evaluation
    return replace(evaluation, metrics=evaluation.metrics | {"baselines": baselines | baseline})
