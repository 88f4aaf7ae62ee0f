"""The results of a study as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from toolkit.studies.charts import entry_name
from toolkit.studies.page import describe_sizes_at_majority, p_value, points
from toolkit.utils.terminal import escape_control_characters


def text_report(record: Mapping[str, Any]) -> str:
    """Return the accuracies with the differences from the first variant, by evaluation, and the learning curves.

    Args:
        record: The contents of study.json.
    """
    entries = record["results"]
    width = max((len(entry_name(entry)) for entry in entries), default=0)
    lines: list[str] = []
    for evaluation in dict.fromkeys(entry["evaluation"] for entry in entries):
        is_curve = any(entry["train_size"] for entry in entries)
        lines.append(f"\naccuracy on {evaluation}{' (n: training rows)' if is_curve else ''}")
        lines += [_describe(entry, width) for entry in entries if entry["evaluation"] == evaluation]
    for curve in record["learning_curves"]:
        low, high = curve["predicted_tenfold_interval"]
        lines.append(
            f"\n{curve['variant']} on {curve['evaluation']}: with ten times the rows, a power law predicts "
            f"{curve['predicted_tenfold']:.2%} [{low:.2%}, {high:.2%}]"
        )
        if curve["sizes_at_majority"]:
            lines.append(f"WARNING: {describe_sizes_at_majority(curve)}")
    return escape_control_characters("\n".join(lines).strip("\n"))


def _describe(entry: Mapping[str, Any], width: int) -> str:
    low, high = entry["interval"]
    line = f"  {entry_name(entry):<{width}}  {entry['accuracy']:.2%} [{low:.2%}, {high:.2%}]"
    if entry["standard_deviation"] is not None:
        line += f"  {len(entry['seeds'])} seeds, SD {100 * entry['standard_deviation']:.2f} points"
    if test := entry["against_first"]:
        value = p_value(test["holm_p_value"])
        line += f"  {points(test['difference'])} points, p {value if value.startswith('<') else f'= {value}'} (Holm)"
    return line
