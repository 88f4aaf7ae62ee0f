"""Text of others as a terminal may be given it: it cannot colour, erase or turn round what stands beside it."""

import re

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # of them newline and tab are left
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[{_CONTROLS}{_BIDI}]")


def visible(text: str) -> str:
    r"""The text with control characters and marks of writing direction escaped (`\x1b`, `\u202e`), for people only."""
    return _HIDDEN.sub(lambda found: _escape(ord(found.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
