"""Markdown with untrusted text: names, labels and licenses cannot become headings, links, HTML or the end of a cell."""

import re
from collections.abc import Callable

from markupsafe import Markup

from toolkit.utils.terminal import escape_control_characters

# An underscore between letters or digits, as in `q_proj`, is no emphasis.
_SYNTAX = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BLOCK_START = re.compile(r"^(\s*)([#+>=-]|\d{1,9}[.)](?=\s|$))")
_ADDRESS = re.compile(r"https?://[!-;=?-~]+")  # printable ASCII without blanks and angle brackets


def safe_markdown(function: Callable[..., str]) -> Callable[..., Markup]:
    """Mark what a function returns as Markdown that needs no escaping, for formats of numbers."""
    return lambda *arguments: Markup(function(*arguments))  # noqa: S704


def escape_markdown(value: object) -> object:
    """Escape a text for a line of Markdown or a cell of a table; numbers and safe Markdown are returned unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = escape_control_characters(_on_one_line(value))
    text = _SYNTAX.sub(r"\\\g<0>", text.replace("&", "&amp;").replace("<", "&lt;"))
    return _BLOCK_START.sub(lambda match: f"{match[1]}{match[2][:-1]}\\{match[2][-1]}", text)


def code_span(text: str) -> Markup:
    """Return a text as inline code, between more backticks than it contains in a row; not for cells of a table."""
    text = escape_control_characters(_on_one_line(text)).strip()
    padding = " " if "`" in text else ""  # Markdown removes one blank at both ends
    return Markup(f"{_fence(text, 1)}{padding}{text}{padding}{_fence(text, 1)}")  # noqa: S704


def code_block(text: str, language: str = "") -> Markup:
    """Return a text as a block of code, between lines of more backticks than it contains in a row."""
    fence = _fence(text, 3)
    return Markup(f"{fence}{language}\n{text}\n{fence}")  # noqa: S704


def link(address: str) -> Markup | str:
    """Return a web address as a link, and any other text as it is, for `escape_markdown`."""
    return Markup(f"<{address}>") if _ADDRESS.fullmatch(address) else address  # noqa: S704


def _on_one_line(text: str) -> str:
    # A line break could start a heading, a list, or a block of HTML. str.splitlines knows all kinds of line breaks.
    return " ".join(text.splitlines())


def _fence(text: str, shortest: int) -> str:
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", text)), default=0))
