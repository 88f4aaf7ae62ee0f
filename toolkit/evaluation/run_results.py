"""What stands in a run's folder about its results, read back: every evaluation, the loss of each step, the parity."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from toolkit.errors import RunError
from toolkit.run_folder import RunFolder, read_object

_MODELS = ("adapter", "base", "merged")
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "n": int, "labels": list, "model": str, "accuracy": (int, float), "per_label": dict, "confusion_matrix": list,
    "macro": dict, "weighted": dict,
}  # fmt: skip
_OPTIONAL = {"data": dict, "overrides": dict, "mode": str, "shots": int, "baselines": dict, "warnings": list}


@dataclass(frozen=True)
class Evaluation:
    """One folder below eval/; `metrics` is its metrics.json.

    Args:
        name: of the folder: <model>, or <model>@<data>[-free][-shotsK][-set<digest>][-limitN].
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def is_own(self) -> bool:
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


def load_evaluations(run: RunFolder, besides: Path | None = None) -> list[Evaluation]:
    """All evaluations of a run: those of its own rows first, the adapter before base, merged and GGUFs.

    Args:
        run: its eval/ is read.
        besides: the folder of one that is left out.

    Raises:
        RunError: a metrics.json is none.
    """
    # A folder that is being written has a name that begins with a dot.
    paths = [path for path in run.eval.glob("*/metrics.json") if path.parent.name[0] != "." and path.parent != besides]
    return sorted((_load_evaluation(path) for path in paths), key=_order)


def _load_evaluation(path: Path) -> Evaluation:
    metrics = read_object(path)
    hint = "Evaluate again, or remove it."
    if missing := [key for key in _NEEDED if key not in metrics]:
        raise RunError(f"{path} has no {missing[0]!r}, so it is no evaluation.", hint=hint)
    odd = [key for key, kind in _NEEDED.items() if not isinstance(metrics[key], kind)]
    odd += [key for key, kind in _OPTIONAL.items() if not isinstance(metrics.get(key), (kind, NoneType))]
    if odd:
        raise RunError(f"{path} has a {type(metrics[odd[0]]).__name__} as {odd[0]!r}, so it is damaged.", hint=hint)
    return Evaluation(path.parent.name, path.parent, metrics)


def _order(evaluation: Evaluation) -> tuple[bool, int, str]:
    model = evaluation.metrics["model"]
    return not evaluation.is_own, _MODELS.index(model) if model in _MODELS else len(_MODELS), evaluation.name


def main_evaluation(evaluations: list[Evaluation]) -> Evaluation | None:
    """The one that speaks for the run: the adapter's on the run's own rows, else the first one there is."""
    return next((one for one in evaluations if one.name == "adapter"), next(iter(evaluations), None))


def base_zero_shot(evaluations: Iterable[Evaluation], fingerprint: str | None) -> dict[str, float]:
    """`base_zero_shot`: the accuracy of the base model on the same rows, where it was measured; else nothing.

    Args:
        evaluations: of a run; what counts is of the base as it came: constrained, no shots, the run's own prompt.
        fingerprint: of the rows (`data.checks.fingerprint`).
    """
    for one in evaluations:
        if one.metrics["model"] == "base" and one.is_plain and fingerprint and one.fingerprint == fingerprint:
            return {"base_zero_shot": one.metrics["accuracy"]}
    return {}


def with_base_zero_shot(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations, beside the base model as it is measured now: it may have been after them."""
    return [_beside_base(one, base_zero_shot(evaluations, one.fingerprint)) for one in evaluations]


def _beside_base(one: Evaluation, base: dict[str, float]) -> Evaluation:
    baselines = one.metrics.get("baselines")
    if not baselines or one.metrics["model"] == "base":
        return one
    return replace(one, metrics=one.metrics | {"baselines": baselines | base})


def load_losses(run: RunFolder) -> tuple[list[int], list[float]]:
    """Steps and losses of train_log.jsonl, without the steps whose loss was no number; empty where there is no log."""
    if not run.train_log.is_file():
        return [], []
    steps, losses = [], []
    for line in run.train_log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["loss"] is not None:
                steps.append(int(record["step"]))
                losses.append(float(record["loss"]))
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was killed may be cut
    return steps, losses


def load_parity(run: RunFolder) -> dict[str, Any] | None:
    """What gguf/parity.json holds; None where there is none."""
    if not run.parity.is_file():
        return None
    parity = read_object(run.parity)
    models = parity.get("models")
    if not isinstance(models, list) or not all(isinstance(one, dict) for one in models):
        raise RunError(f"{run.parity} lists no models, so it is damaged.", hint="Export again, or remove it.")
    return parity
