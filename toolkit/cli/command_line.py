"""The common behavior of all commands: flags, printed messages, and errors with a hint and an exit code."""

import argparse
import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from toolkit.cli.flags import with_flags
from toolkit.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_INTERRUPTED, ToolkitError, first_line
from toolkit.utils.memory_errors import memory_errors
from toolkit.utils.progress import show_progress
from toolkit.utils.storage import final_name
from toolkit.utils.terminal import check_output, escape_control_characters, prepare_output

_MAX_PATH_LENGTH = 200
_OUT_OF_MEMORY, _OUT_OF_MEMORY_HINT = (
    "Out of memory (RAM or GPU).",
    "Close other processes, reduce the batch size, or use a machine with more memory.",
)
_OS_ERRORS = {
    errno.ENOENT: ("Cannot open or create {}: there is no such file or folder.", EXIT_BAD_INPUT),
    errno.EROFS: ("Cannot write {}: the file system is read-only.", EXIT_FAILURE),
    errno.EACCES: ("Cannot open {}: permission denied.", EXIT_FAILURE),
    errno.EPERM: ("Cannot change {}: operation not permitted.", EXIT_FAILURE),
    errno.ENAMETOOLONG: ("The file name {} is too long.", EXIT_BAD_INPUT),
    errno.ELOOP: ("Cannot open {}: too many levels of symbolic links.", EXIT_BAD_INPUT),
    errno.ENOTDIR: ("Cannot open {}: a part of this path is a file, not a folder.", EXIT_BAD_INPUT),
    errno.EISDIR: ("{} is a folder, not a file.", EXIT_BAD_INPUT),
    errno.EEXIST: ("{} is a file, but a folder is needed here.", EXIT_BAD_INPUT),
}
"""For each errno, a sentence with the path and an exit code. A full disk is handled by `toolkit.utils.storage`."""


def parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser that keeps line breaks of the description and rejects abbreviated flags."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a script that uses --over would break as soon as a second flag starts that way
    )


def add_overrides(argument_parser: argparse.ArgumentParser) -> None:
    """Add the flag `--set section.key=value`."""
    argument_parser.add_argument(
        "--set",
        dest="overrides",
        type=utf8_text,
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the recipe with a YAML value (repeatable)",
    )


def add_run(argument_parser: argparse.ArgumentParser) -> None:
    """Add the run folder as a positional argument, and the flags that say how to open it."""
    argument_parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, e.g. outputs/nli_fr")
    argument_parser.add_argument("--base", type=Path, metavar="PATH", help="the base model's folder, if it has moved")
    argument_parser.add_argument(
        "--accept-changes", action="store_true", help="use files that have changed since they were recorded"
    )


def opening(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `open_run` that `add_run` has parsed."""
    return {"base": arguments.base, "accept_changes": arguments.accept_changes}


def recipe_keys() -> str:
    """Return all keys of a recipe with default and description, as an epilog for --help."""
    from toolkit.recipe.loading import describe_keys

    keys = "\n".join(f"  {key} = {default}\n      {description}" for key, default, description in describe_keys())
    return f"keys of a recipe:\n{keys}"


def utf8_text(argument: str) -> str:
    """Return an argument as the text that its bytes are in UTF-8, whatever the locale, as an argparse type.

    Raises:
        ArgumentTypeError: If the bytes are not UTF-8.
    """
    # In an ASCII locale, Python keeps the bytes of other letters as lone surrogates. File names must stay so.
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError as error:
        raise argparse.ArgumentTypeError(f"{argument!r} is not UTF-8 text") from error


def positive(text: str) -> int:
    """Parse an integer of at least 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def positive_or_all(text: str) -> int | Literal["all"]:
    """Parse an integer of at least 1 or the word all, as an argparse type."""
    return "all" if text == "all" else positive(text)


def share(text: str) -> float:
    """Parse a number above 0 and at most 1, as an argparse type."""
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError
    return number


def byte_size(text: str) -> int:
    """Parse a size such as 16GB, 15.8 GB or 24GiB into bytes, as an argparse type.

    Raises:
        ArgumentTypeError: If the text is not a size.
    """
    # A bare number means GB: nobody asks for a GPU of 16 bytes.
    units = {"": 1e9, "GB": 1e9, "MB": 1e6, "GIB": 2**30, "MIB": 2**20}
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if not match or match[2].upper() not in units or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a memory size; write it like 16GB")
    return int(float(match[1]) * units[match[2].upper()])


def run_command(command: Callable[[], None]) -> int:
    """Run a command and return its exit code; errors that a user can cause are printed without a traceback.

    Log messages of the library are printed and progress is shown. SIGTERM stops the command as Ctrl-C does, so that
    it can clean up. If the reader of standard output leaves (`| head -1`), the command still does all its work.
    """
    prepare_output()
    is_main_thread = threading.current_thread() is threading.main_thread()  # signal.signal raises in others
    previous_handler = signal.signal(signal.SIGTERM, _interrupt) if is_main_thread else None
    try:
        with _printed_logs(), show_progress(True), memory_errors(_OUT_OF_MEMORY, hint=_OUT_OF_MEMORY_HINT):
            command()
            check_output()
    except ToolkitError as error:
        _print_error(str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        message = str(interrupt)
        print("interrupted" + (f": {escape_control_characters(message)}" if message else ""), file=sys.stderr)
        return EXIT_INTERRUPTED
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding() or error.encoding == "utf-8":
            raise
        _print_error(
            f"{error.object!r} cannot be a file name: the encoding of file names is {error.encoding} in this locale.",
            "Set the environment variable PYTHONUTF8=1.",
        )
        return EXIT_BAD_INPUT
    except OSError as error:
        sentence, code = explain_os_error(error)
        _print_error(sentence, None)
        return code
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, previous_handler)
    return 0


def _print_error(message: str, hint: str | None) -> None:
    print(f"error: {escape_control_characters(with_flags(message))}", file=sys.stderr)
    if hint:
        print(f"hint: {escape_control_characters(with_flags(hint))}", file=sys.stderr)


class _PrintHandler(logging.Handler):
    """A log handler that prints warnings and errors to standard error, and other messages to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a log record."""
        print(record.getMessage(), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


@contextmanager
def _printed_logs() -> Iterator[None]:
    logger, handler = logging.getLogger("toolkit"), _PrintHandler()
    previous_settings = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a package that configures the root logger would print every message again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = previous_settings


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def explain_os_error(error: OSError) -> tuple[str, int]:
    """Return a sentence about an error of the operating system, and the exit code: 2 for a wrong path, else 1."""
    # Files are written under a temporary name; show the name that the user knows.
    path = final_name(str(error.filename or "a file"))
    path = path if len(path) <= _MAX_PATH_LENGTH else f"{path[:_MAX_PATH_LENGTH]}..."
    sentence, code = _OS_ERRORS.get(error.errno or 0, (f"{{}}: {error.strerror or first_line(error)}.", EXIT_FAILURE))
    return sentence.format(path), code
