"""The report of a run: one HTML file without scripts or network, for a colleague who was not there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from toolkit.errors import RunError, first_line
from toolkit.reporting import formats
from toolkit.reporting.charts import loss_curve, reliability_diagram
from toolkit.reporting.report_data import BASELINES, Report, gather_report
from toolkit.runs.run_folder import now
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_text


def write_report(run: TrainedRun) -> Path:
    """Write RUN/report.html from what stands in the run's folder; nothing is measured or loaded here.

    Args:
        run: evaluations, training log and parity.json are shown where they are.

    Returns:
        The report's path.

    Raises:
        RunError: a file of the run is missing or is not what it should be.
    """
    path = run.folder.report
    write_text(path, render(gather_report(run)))
    return path


def render(report: Report) -> str:
    """The page; every text of the run is escaped."""
    template = _environment().get_template("report.html.jinja")
    with wrap_render_errors(report):
        return template.render(
            report=report,
            loss_curve=loss_curve(report.steps, report.losses) if len(report.steps) > 1 else None,
            reliability=reliability_diagram(report.summary.bins) if report.summary.bins else None,
            baselines=BASELINES,
            written=now(),
        )


@contextmanager
def wrap_render_errors(report: Report) -> Iterator[None]:
    """Say in a sentence that a value in a run's files is not what its place needs.

    Raises:
        RunError: the template, or what it calls, cannot show a value.
    """
    try:
        yield
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise RunError(
            f"The files of {report.run.path} cannot be shown, since a value in one is not what it should be: "
            f"{first_line(error).rstrip('.')}.",
            hint="Look into run.json, gguf/parity.json and eval/*/metrics.json; evaluate or export again.",
        ) from error


def _environment() -> Environment:
    templates = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "interval", "decimal", "count", "significant", "moment"):
        environment.filters[name] = getattr(formats, name)
    environment.filters["join_with_or"] = join_with_or
    return environment


def join_with_or(words: Sequence[str]) -> str:
    """Words as a choice: "a, b or c"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"
