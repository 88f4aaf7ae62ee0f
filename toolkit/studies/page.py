"""The page of a study: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader

from toolkit.reporting import formats
from toolkit.reporting.html_report import report_environment
from toolkit.studies.charts import accuracy_chart, entry_name, learning_curve_chart
from toolkit.utils.formatting import join_names


def render(record: Mapping[str, Any]) -> str:
    """Return the page as HTML; all text from the study is escaped.

    Args:
        record: The contents of study.json.
    """
    environment = report_environment()
    study_templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment.loader = ChoiceLoader([study_templates, *([environment.loader] if environment.loader else [])])
    for name in ("duration", "size"):
        environment.filters[name] = getattr(formats, name)
    environment.filters.update(
        points=points, p_value=p_value, entry_name=entry_name, majority_warning=describe_sizes_at_majority
    )
    evaluations = _by_evaluation(record["results"])
    return environment.get_template("study.html.jinja").render(
        study=record,
        evaluations=evaluations,
        charts={name: accuracy_chart(entries) for name, entries in evaluations.items()},
        curve_charts=[learning_curve_chart(curve) for curve in record["learning_curves"]],
        trials=_sort_trials(record.get("search") or {}),
        unfinished=[cell for cell in record["cells"] if cell["status"] != "completed"],
        tests=sum(entry["against_first"] is not None for entry in record["results"]),
    )


def _sort_trials(search: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trials of a search: the completed ones, the best first, and then the others."""
    sign = 1 if search.get("metric") == "dev_nll" else -1
    trials = search.get("trials", [])
    return sorted(trials, key=lambda trial: (trial["state"] != "completed", sign * (trial["value"] or 0)))


def _by_evaluation(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    evaluations: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        evaluations.setdefault(entry["evaluation"], []).append(entry)
    return evaluations


def describe_sizes_at_majority(curve: Mapping[str, Any]) -> str:
    """Return a warning about the sizes at which accuracy is not measurably above that of the majority class."""
    sizes = join_names([formats.count(round(size)) for size in curve["sizes_at_majority"]], "and")
    return (
        f"Trained on {sizes} rows, the model is not measurably more accurate than always giving the majority class of "
        "the evaluation rows. The power law does not describe such sizes, so its predictions are unreliable. Use "
        "larger sizes or more epochs."
    )


def points(difference: float) -> str:
    """Format a difference between shares in percentage points: 0.0123 becomes "+1.2"."""
    return f"{100 * difference:+.1f}"


def p_value(value: float) -> str:
    """Format a p-value with two significant digits; very small ones become "< 0.0001"."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"
