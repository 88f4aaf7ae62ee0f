"""Formats of numbers and times in reports; a missing value is shown as a dash."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from toolkit.utils.formatting import format_bytes, join_names

MISSING = "–"
DEV_METRIC_NAMES = {"nll": "NLL", "accuracy": "accuracy", "macro_f1": "macro F1"}
"""The names of the metrics of the dev rows, by the values of training.best_metric."""
_MAX_CELL_LENGTH = 60


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share as a percentage: 0.708 becomes "70.8%"."""
    return MISSING if share is None else f"{100 * share:.{digits}f}%"


def interval(bounds: Sequence[float] | None) -> str:
    """Format the interval of a share in percent: [0.69, 0.726] becomes "[69.0, 72.6]"; None becomes ""."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else ""


def decimal(value: float | None, digits: int = 4) -> str:
    """Format a number with a fixed number of decimal places."""
    return MISSING if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """Format an integer with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def significant(value: float | None, digits: int = 3) -> str:
    """Format a number of any magnitude: 12345.6 becomes "12,346", 1.0e-07 becomes "1e-07"."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Format seconds for people: 54.4 becomes "54 s", 7500 becomes "2 h 5 min"."""
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(byte_count: float | None) -> str:
    """Format bytes with a fitting unit (powers of 1,000)."""
    return MISSING if byte_count is None else format_bytes(byte_count)


def shorten(text: str) -> str:
    """Cut a text that is too long for a cell of a table."""
    return text if len(text) <= _MAX_CELL_LENGTH else f"{text[: _MAX_CELL_LENGTH - 1]}…"


def label_counts(labels: Mapping[str, int]) -> str:
    """Format the number of rows of each label: "16 neutral, 16 entailment", the first ones only of many."""
    return join_names([f"{count(rows)} {shorten(label)}" for label, rows in labels.items()])


def timestamp(iso: str | None) -> str:
    """Format an ISO 8601 time for people: "2026-11-25T15:24:18+00:00" becomes "25 November 2026, 15:24 UTC"."""
    # "%-d", a day without a leading zero, is an extension of glibc and BSD that Windows does not have.
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%-d %B %Y, %H:%M UTC") if iso else "unknown"
