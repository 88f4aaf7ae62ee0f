"""Numbers as a report writes them; what is missing or does not apply is a dash."""

from collections.abc import Sequence
from datetime import UTC, datetime

MISSING = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage: 0.708 is "70.8 %"."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """The bounds of a share's interval in percent: [0.69, 0.726] is "[69.0, 72.6]"; empty where there is none."""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else ""


def decimal(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of digits."""
    return MISSING if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """A whole number with its thousands set apart."""
    return MISSING if value is None else f"{value:,}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number of any size: 12345.6 is "12,346", 1.0e-07 is "1e-07"."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 54.4 is "54 s", 3725 is "1 h 2 min"."""
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(byte_count: float | None) -> str:
    """Bytes in MB or GB, powers of ten."""
    if byte_count is None:
        return MISSING
    return f"{byte_count / 1e9:.2f} GB" if byte_count >= 1e9 else f"{byte_count / 1e6:.0f} MB"


def moment(iso: str | None) -> str:
    """A time of run.json as a person reads it: "2026-11-25T15:24:18+00:00" is "25 November 2026, 15:24 UTC"."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%-d %B %Y, %H:%M UTC") if iso else "at an unknown time"
