"""The results of an evaluation as text for a terminal."""

from typing import Any

from toolkit.evaluation.confusion import confused_pairs, confusion_table
from toolkit.evaluation.invalid_answers import invalid_lines
from toolkit.recipe.inputs import name_texts
from toolkit.utils.formatting import join_names
from toolkit.utils.terminal import escape_control_characters

_MAX_SLICES = 30
_MAX_NAME_LENGTH = 60


def text_report(metrics: dict[str, Any]) -> str:
    """Return a table of per-label scores, as scikit-learn's classification_report, followed by the other metrics.

    Args:
        metrics: The content of metrics.json.
    """
    low, high = metrics["accuracy_ci95"]
    is_free = metrics["nll"] is None
    likelihood = "" if is_free else f"nll {metrics['nll']:.4f}; ece {metrics['ece']:.4f}; "
    lines = [
        f"accuracy {metrics['accuracy']:.2%} [{low:.2%}, {high:.2%}] on {metrics['n']:,} rows; "
        f"invalid {metrics['invalid']}; {likelihood}"
        f"{metrics['speed']['examples_per_second']:.1f} rows/s"
    ]
    for name, labels in metrics.get("merge_labels", {}).items():
        lines.append(f"{name} is {join_names(labels, 'or')}; their probabilities are added")
    if metrics["baselines"]:
        baselines = ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in metrics["baselines"].items())
        lines.append(f"baselines: {baselines}")
    lines += _statistics_lines(metrics)
    for column, values in metrics["slices"].items():
        lines += _slice_lines(column, values)
    # Labels, slice values and answers come from data files and models, which are untrusted.
    return escape_control_characters("\n".join([*_label_lines(metrics), *lines, *invalid_lines(metrics)]))


def _label_lines(metrics: dict[str, Any]) -> list[str]:
    # Not scikit-learn's own function: its macro average is over all labels, also those that no row has.
    table = confusion_table(metrics)
    names = {label: _shorten(label) for label in table.labels}
    width = max(len("weighted avg"), *map(len, names.values()))
    lines = [f"{'':>{width}} {'precision':>10}{'recall':>10}{'f1-score':>10}{'support':>10}\n"]
    for label, name in names.items():
        scores = metrics["per_label"][label]
        recall, f1 = (f"{scores[key]:.4f}" if scores["support"] else "-" for key in ("recall", "f1"))
        lines.append(f"{name:>{width}} {scores['precision']:>10.4f}{recall:>10}{f1:>10}{scores['support']:>10}")
    lines.append(f"\n{'accuracy':>{width}} {'':>20}{metrics['accuracy']:>10.4f}{metrics['n']:>10}")
    for average in ("macro", "weighted"):
        precision, recall, f1 = (f"{metrics[average][key]:>10.4f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{f'{average} avg':>{width}} {precision}{recall}{f1}{metrics['n']:>10}")
    if not table.remark:
        return [*lines, ""]
    lines.append(f"\nThe table shows {table.remark}; metrics.json has all.")
    if pairs := confused_pairs(metrics):
        lines.append("The most frequent errors:")
        lines += [f"{rows:>8,}  {_shorten(gold)} as {_shorten(predicted)}" for gold, predicted, rows in pairs]
    return [*lines, ""]


def _slice_lines(column: str, values: dict[str, Any]) -> list[str]:
    shown, remark = list(values.items()), ""
    if len(shown) > _MAX_SLICES:
        shown = sorted(shown, key=lambda item: item[1]["accuracy"])[:_MAX_SLICES]
        remark = f" ({len(shown)} of {len(values):,} values, lowest accuracy first)"
    title, *names = [_shorten(name) for name in (column, *(value for value, _ in shown))]
    width = max(map(len, (title, *names)))
    return [
        f"\n{title:<{width}}  {'rows':>6}  accuracy  macro F1{remark}",
        *(
            f"{name:<{width}}  {scores['n']:>6}  {scores['accuracy']:>8.2%}  {scores['macro_f1']:>8.4f}"
            for name, (_, scores) in zip(names, shown, strict=True)
        ),
    ]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 3]}..."


def _statistics_lines(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["macro_f1_ci95"]
    lines = [
        f"macro F1 {metrics['macro']['f1']:.4f} [{low:.4f}, {high:.4f}] over {_describe_groups(metrics)}"
        + ("" if metrics["brier"] is None else f"; brier {metrics['brier']:.4f}")
    ]
    if cross_fitted := metrics.get("cross_fitted_calibration"):
        values = "; ".join(f"{name} {cross_fitted[name]:.4f}" for name in ("nll", "ece", "brier"))
        temperatures = " and ".join(f"{temperature:.3f}" for temperature in cross_fitted["temperatures"])
        lines.append(
            f"calibrated (cross-fitted): {values}; temperatures {temperatures}, each fitted on one half of the rows "
            "and applied to the other"
        )
    if top_k := metrics.get("top_k_accuracy"):
        lines.append("; ".join(f"top-{k} accuracy {accuracy:.2%}" for k, accuracy in top_k.items()))
    if calibration := metrics["calibration"]:
        changes = ", ".join(
            f"{name} {calibration['before'][name]:.4f} -> {calibration['after'][name]:.4f}"
            for name in ("nll", "ece", "brier")
        )
        rows = "dev rows" if calibration.get("source") == "dev" else "held-out training rows"
        lines.append(
            f"temperature {calibration['temperature']:.3f}, fitted on {calibration['rows']:,} {rows}: {changes}"
        )
    return lines + [f"WARNING: {warning}" for warning in metrics["warnings"]]


def _describe_groups(metrics: dict[str, Any]) -> str:
    if "premise_groups" in metrics:
        return f"{metrics['premise_groups']:,} premises"
    return f"{metrics['groups']:,} {name_texts(metrics['inputs'][0])}"
