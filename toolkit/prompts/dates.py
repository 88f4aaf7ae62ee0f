"""Dates in chat templates: the recipe's date takes the place of the clock in training, scoring and GGUF files."""

import json
from datetime import datetime

DATE_KEY = "task.date_string"
"""The recipe key, as error messages name it."""
_FORMATS = (
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
    "%B %d %Y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
)
_CODES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"
"""The conversions of `strftime` that Python documents for all platforms."""


def pin_date(template: str, date_string: str | None) -> str:
    """Return a chat template that prints `date_string` wherever it would print today's date.

    Templates read the date from the variable `date_string` (Llama 3) or from the function `strftime_now` (SmolLM3,
    Granite). Both are defined in front of the template, so that any program that renders it prints the same date.

    Args:
        template: The Jinja source of the template.
        date_string: The date, e.g. 26 Jul 2024. None leaves the template unchanged, and it then reads the clock.
    """
    if date_string is None:
        return template
    prelude = f"{{%- set date_string = {_literal(date_string)} %}}"
    if "strftime_now" in template:
        prelude += f"{{%- macro strftime_now(format) -%}}{_formatted_date(date_string)}{{%- endmacro %}}"
    # Programs that render chat templates remove the first line break after a block, and blanks between the start of a
    # line and a block. With a line break of its own, the prelude changes neither at the start of the template.
    return prelude + "\n" * template[:1].isspace() + template


def _formatted_date(date_string: str) -> str:
    """Return a Jinja expression that formats the date as the variable `format` says."""
    date = _parse_date(date_string)
    if date is None:
        message = f"{DATE_KEY} {date_string!r} is not a date such as 26 Jul 2024, and the template formats it"
        return f"{{{{ raise_exception({_literal(message)}) }}}}"
    values = {f"%{code}": date.strftime(f"%{code}") for code in _CODES}
    values |= {f"%-{code}": values[f"%{code}"].lstrip("0") or "0" for code in "dHIjmMSy"}  # without leading zeros
    values |= {"%e": f"{date.day:2}", "%F": date.strftime("%Y-%m-%d"), "%%": "%"}
    return "{{- format" + "".join(f" | replace({_literal(code)}, {_literal(v)})" for code, v in values.items()) + " -}}"


def _parse_date(text: str) -> datetime | None:
    for format_ in _FORMATS:
        try:
            return datetime.strptime(text.strip(), format_)
        except ValueError:
            continue
    return None


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
