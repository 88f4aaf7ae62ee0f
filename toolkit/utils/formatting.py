"""Formats of sizes and lists in messages and reports."""

from collections.abc import Iterable

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_MAX_NAMES = 30


def format_bytes(count: float) -> str:
    """Format a size in the unit (powers of 1,000) that fits it: 1_234_000_000 becomes "1.23 GB"."""
    value, unit = float(count), 0
    # 999.5 would be rounded to 1,000 of the smaller unit.
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f} {_UNITS[unit]}"


def join_names(names: Iterable[str], conjunction: str | None = None, *, at_most: int = _MAX_NAMES) -> str:
    """Join names as in a sentence, and name only the first ones if there are many.

    Args:
        names: The names, at least one.
        conjunction: The word before the last name ("a, b or c"). None puts a comma there.
        at_most: The number of names above which the last ones are only counted ("a, b and 498 more").
    """
    listed = list(names)
    if len(listed) > at_most:
        return f"{', '.join(listed[: at_most - 1])} and {len(listed) - at_most + 1:,} more"
    if conjunction is None or len(listed) == 1:
        return ", ".join(listed)
    return f"{', '.join(listed[:-1])} {conjunction} {listed[-1]}"
