"""Results as text for a terminal."""

from collections.abc import Sequence
from typing import Any

from sklearn.metrics import classification_report

from toolkit.evaluation.invalid import invalid_lines
from toolkit.evaluation.metrics import Predictions
from toolkit.task import Example
from toolkit.visible_text import visible


def terminal_report(examples: Sequence[Example], predictions: Predictions, metrics: dict[str, Any]) -> str:
    """The per-class table, laid out by scikit-learn, and below it the figures that it lacks."""
    table = classification_report(
        [example.label for example in examples],
        [label or "" for label in predictions.predicted],
        labels=list(predictions.labels),
        digits=4,
        zero_division=0.0,
    )
    low, high = metrics["accuracy_ci95"]
    is_free = metrics["nll"] is None
    likelihood = "" if is_free else f"nll {metrics['nll']:.4f}; ece {metrics['ece']:.4f}; "
    lines = [
        f"accuracy {metrics['accuracy']:.2%} [{low:.2%}, {high:.2%}] on {metrics['n']:,} rows; "
        f"invalid {metrics['invalid']}; {likelihood}"
        f"{metrics['speed']['examples_per_second']:.1f} rows/s"
    ]
    if metrics["baselines"]:
        floor = ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in metrics["baselines"].items())
        lines.append(f"without the model: {floor}")
    lines += _statistics_lines(metrics)
    for column, values in metrics["slices"].items():
        width = max(len(column), *(len(value) for value in values))
        lines.append(f"\n{column:<{width}}  {'rows':>6}  accuracy  macro F1")
        lines += [
            f"{value:<{width}}  {one['n']:>6}  {one['accuracy']:>8.2%}  {one['macro_f1']:>8.4f}"
            for value, one in values.items()
        ]
    return visible("\n".join([table, *lines, *invalid_lines(metrics)]))


def _statistics_lines(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["macro_f1_ci95"]
    lines = [
        f"macro F1 {metrics['macro']['f1']:.4f} [{low:.4f}, {high:.4f}] over {metrics['premise_groups']:,} premises"
        + ("" if metrics["brier"] is None else f"; brier {metrics['brier']:.4f}")
    ]
    if calibration := metrics["calibration"]:
        changes = ", ".join(
            f"{name} {calibration['before'][name]:.4f} -> {calibration['after'][name]:.4f}"
            for name in ("nll", "ece", "brier")
        )
        lines.append(
            f"temperature {calibration['temperature']:.3f}, fitted on {calibration['rows']:,} rows held back from "
            f"training: {changes}"
        )
    return lines + [f"WARNING: {warning}" for warning in metrics["warnings"]]
