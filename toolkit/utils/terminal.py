"""Output that always works: untrusted text without control characters, any encoding, a reader that has left."""

import io
import os
import re
import sys
from typing import Any

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
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class _OutputFile(io.FileIO):
    """The file of an output stream, which discards what it cannot write.

    Work of hours must not end because nobody reads its messages any more. `| head -1` would end it with the default
    action of SIGPIPE, and a log on a full disk with an exception.

    Attributes:
        error: The error of the first write that failed.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write bytes, or discard them if this or an earlier write fails."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


def prepare_output() -> None:
    """Make standard output and standard error accept all text, and never fail.

    Characters that the encoding lacks (ASCII in many containers and cron jobs) are escaped (`\\xe9`).
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # The parent has closed it (`>&-`). The next file to be opened would get its number, and with it what C code
            # prints.
            os.dup2(null := os.open(os.devnull, os.O_WRONLY), descriptor)
            if null != descriptor:
                os.close(null)
            setattr(sys, name, open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            file = io.BufferedWriter(_OutputFile(descriptor, "w", closefd=False))
            is_unbuffered = stream.line_buffering or stream.write_through
            replaced = io.TextIOWrapper(file, stream.encoding, "backslashreplace", line_buffering=is_unbuffered)
            setattr(sys, name, replaced)
        elif isinstance(stream, io.TextIOWrapper):  # of a caller, for example of a test
            stream.reconfigure(errors="backslashreplace")


def check_output() -> None:
    """Check, when the work is done, that standard output has been written, unless its reader has left before the end.

    Raises:
        OSError: If it could not be written, for example to a full disk.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(file, _OutputFile) and file.error and not isinstance(file.error, BrokenPipeError):
        file.error.filename = "standard output"
        raise file.error
