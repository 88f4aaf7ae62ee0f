"""The results of a study as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from toolkit.studies.charts import entry_name
from toolkit.studies.page import p_value, points
from toolkit.utils.terminal import escape_control_characters


def text_report(record: Mapping[str, Any]) -> str:
    """Return the accuracies with the differences from the first row, by evaluation, and the learning curves.

    Args:
        record: The contents of study.json.
    """
    entries = record["results"]
    width = max((len(entry_name(entry)) for entry in entries), default=0)
    lines: list[str] = []
    for evaluation in dict.fromkeys(entry["evaluation"] for entry in entries):
        lines.append(f"\naccuracy on {evaluation}")
        for entry in entries:
            if entry["evaluation"] == evaluation:
                low, high = entry["interval"]
                line = f"  {entry_name(entry):<{width}}  {entry['accuracy']:.2%} [{low:.2%}, {high:.2%}]"
                if entry["deviation"] is not None:
                    line += f"  {len(entry['seeds'])} seeds, deviation {entry['deviation']:.2%}"
                if test := entry["against_first"]:
                    line += f"  {points(test['difference'])} points, p = {p_value(test['holm_p_value'])} (Holm)"
                lines.append(line)
    for curve in record["learning_curves"]:
        low, high = curve["tenfold_interval"]
        lines.append(
            f"\n{curve['row']} on {curve['evaluation']}: with ten times the rows, a power law predicts "
            f"{curve['tenfold']:.2%} [{low:.2%}, {high:.2%}]"
        )
    return escape_control_characters("\n".join(lines).strip("\n"))
