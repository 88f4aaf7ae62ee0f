"""The report of a run: one self-contained HTML file for a colleague who was not involved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from toolkit.errors import RunError, first_line
from toolkit.evaluation.confusion import confusion_table
from toolkit.recipe.inputs import name_texts
from toolkit.reporting import formats
from toolkit.reporting.charts import dev_curve, loss_curve, reliability_diagram
from toolkit.reporting.report_data import Report, gather_report
from toolkit.runs.run_folder import utc_now
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_text


def write_report(run: TrainedRun) -> Path:
    """Write report.html from the files in the run folder, without measuring or loading a model.

    Args:
        run: The run to report on; evaluations, training log and parity.json may be missing.

    Returns:
        The path of the report.

    Raises:
        RunError: If run.json or recipe.yaml is missing, or a file of the run is damaged.
    """
    path = run.folder.report
    write_text(path, render(gather_report(run)))
    return path


def render(report: Report) -> str:
    """Return the page as HTML; all text from the run is escaped."""
    template = report_environment().get_template("report.html.jinja")
    with wrap_render_errors(report):
        return template.render(
            report=report,
            loss_curve=loss_curve(report.steps, report.losses) if len(report.steps) > 1 else None,
            dev_curve=_dev_curve(report),
            reliability=reliability_diagram(report.summary.bins) if report.summary.bins else None,
            baselines=report.baselines,
            metric_names=formats.DEV_METRIC_NAMES,
            written=utc_now(),
        )


def _dev_curve(report: Report) -> Markup | None:
    values = {scores.step: getattr(scores, report.best_metric) for scores in report.dev_scores}
    finite = {step: value for step, value in values.items() if value is not None}
    if not finite:
        return None
    last_step = max(report.steps + list(finite))
    return dev_curve(list(finite), list(finite.values()), report.best_metric, last_step, report.kept_step)


@contextmanager
def wrap_render_errors(report: Report) -> Iterator[None]:
    """Turn errors of rendering into one sentence about the run's files.

    Raises:
        RunError: If the template, or a function that it calls, cannot handle a value.
    """
    try:
        yield
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise RunError(
            f"Cannot write a report or model card for {report.run.path}: one of its files has an unexpected value: "
            f"{first_line(error).rstrip('.')}.",
            hint="Check run.json, gguf/parity.json and eval/*/metrics.json, or evaluate and export again.",
        ) from error


def report_environment() -> Environment:
    """Return the environment for pages: escaped text, the formats of reports, and an error for a missing field."""
    templates = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,  # rows, recipes and answers are untrusted text
        undefined=StrictUndefined,  # a field missing from a file is an error, not an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "interval", "decimal", "count", "significant", "timestamp"):
        environment.filters[name] = getattr(formats, name)
    environment.filters.update(shorten=formats.shorten, label_counts=formats.label_counts, name_texts=name_texts)
    environment.globals["confusion_table"] = confusion_table
    return environment
