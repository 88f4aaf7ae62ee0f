"""Safe printing of untrusted text: without control characters, which can change or hide other output of a terminal."""

import os
import re
import sys

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0, DEL and C1, except for tab and newline
# Marks that change the direction of the text that follows ("Trojan Source").
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[{_CONTROLS}{_BIDI}]")


def escape_control_characters(text: str) -> str:
    r"""Escape control and bidirectional characters (`\x1b`, `\u202e`) of a text that is shown to people."""
    return _HIDDEN.sub(lambda match: _escape(ord(match.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def use_color() -> bool:
    """Return whether standard output is a terminal and the user has not disabled colors (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
