"""Text of others as a terminal may be given it: it cannot colour, erase or turn round what stands beside it."""

import os
import re
import sys

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # of them newline and tab are left
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[{_CONTROLS}{_BIDI}]")


def escape_control_characters(text: str) -> str:
    r"""The text with control characters and marks of writing direction escaped (`\x1b`, `\u202e`), for people only."""
    return _HIDDEN.sub(lambda match: _escape(ord(match.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def use_color() -> bool:
    """Return whether standard output is a terminal whose user has not asked for no colour (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
