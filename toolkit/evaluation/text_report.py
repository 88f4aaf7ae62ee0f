"""The results of an evaluation as text for a terminal."""

from collections.abc import Sequence
from typing import Any

from toolkit.evaluation.invalid_answers import invalid_lines
from toolkit.utils.terminal import escape_control_characters


def text_report(gold: Sequence[str], predicted: Sequence[str], metrics: dict[str, Any]) -> str:
    """Return scikit-learn's table of per-class scores, followed by the other metrics.

    Args:
        gold: The true label of each row.
        predicted: The predicted label of each row, or "" if a free answer is not a label.
        metrics: The content of metrics.json.
    """
    from sklearn.metrics import classification_report  # slow, and reading an Evaluation does not need it

    table = classification_report(
        list(gold),
        list(predicted),
        labels=list(metrics["labels"]),
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
        baselines = ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in metrics["baselines"].items())
        lines.append(f"baselines: {baselines}")
    lines += _statistics_lines(metrics)
    for column, values in metrics["slices"].items():
        width = max(len(column), *(len(value) for value in values))
        lines.append(f"\n{column:<{width}}  {'rows':>6}  accuracy  macro F1")
        lines += [
            f"{value:<{width}}  {slice_metrics['n']:>6}  {slice_metrics['accuracy']:>8.2%}  "
            f"{slice_metrics['macro_f1']:>8.4f}"
            for value, slice_metrics in values.items()
        ]
    # Labels, slice values and answers come from data files and models, which are untrusted.
    return escape_control_characters("\n".join([table, *lines, *invalid_lines(metrics)]))


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
            f"temperature {calibration['temperature']:.3f}, fitted on {calibration['rows']:,} held-out training rows: "
            f"{changes}"
        )
    return lines + [f"WARNING: {warning}" for warning in metrics["warnings"]]
