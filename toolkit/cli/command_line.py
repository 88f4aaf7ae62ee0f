"""What the commands share: flags in one style, printed messages, and errors as one sentence and an exit code."""

import argparse
import errno
import io
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from toolkit.cli.flags import with_flags
from toolkit.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_INTERRUPTED, ToolkitError, first_line
from toolkit.utils.memory_errors import memory_errors
from toolkit.utils.progress import show_progress
from toolkit.utils.storage import final_name
from toolkit.utils.terminal import escape_control_characters

_MAX_PATH_LENGTH = 200
_OUT_OF_MEMORY, _OUT_OF_MEMORY_HINT = (
    "Memory is used up, the machine's or its GPU's.",
    "End what else runs there, or take more memory.",
)
_OS_ERRORS = {
    errno.EROFS: ("{} cannot be written: its disk is read-only.", EXIT_FAILURE),
    errno.EACCES: ("{} cannot be opened: this user may not.", EXIT_FAILURE),
    errno.EPERM: ("{} cannot be changed: this user may not.", EXIT_FAILURE),
    errno.ENAMETOOLONG: ("{} is too long for the name of a file.", EXIT_BAD_INPUT),
    errno.ELOOP: ("{} is a symbolic link that leads in a circle.", EXIT_BAD_INPUT),
    errno.ENOTDIR: ("{} stands below a file, not in a folder.", EXIT_BAD_INPUT),
    errno.EISDIR: ("{} is a folder, not a file.", EXIT_BAD_INPUT),
    errno.EEXIST: ("{} is a file, where a folder is needed.", EXIT_BAD_INPUT),
}
"""By the system's number: a sentence for the path, and an exit code. For a full disk see `toolkit.utils.storage`."""


def parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser that keeps line breaks and refuses abbreviated flags."""
    return argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_overrides(argument_parser: argparse.ArgumentParser) -> None:
    """Add `--set section.key=value`."""
    argument_parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the recipe; the value is YAML; may be repeated",
    )


def add_run(argument_parser: argparse.ArgumentParser) -> None:
    """Add the positional run folder."""
    argument_parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, e.g. outputs/nli_fr")


def recipe_keys() -> str:
    """Every key of a recipe with its default and description, as an epilog for --help."""
    from toolkit.recipe.loading import fields

    keys = "\n".join(f"  {key} = {default}\n      {description}" for key, default, description in fields())
    return f"keys of a recipe:\n{keys}"


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def positive_or_all(text: str) -> int | Literal["all"]:
    """An argparse type: an integer of at least 1, or the word all."""
    return "all" if text == "all" else positive(text)


def share(text: str) -> float:
    """An argparse type: a number above 0 and up to 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise ValueError
    return number


def byte_size(text: str) -> int:
    """Bytes that a size such as 16GB, 15.8 GB or 24GiB says, for argparse.

    Raises:
        ArgumentTypeError: it says none.
    """
    units = {"": 1e9, "GB": 1e9, "MB": 1e6, "GIB": 2**30, "MIB": 2**20}
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([a-z]*)", text.strip(), re.IGNORECASE)
    if not match or match[2].upper() not in units or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a memory; write e.g. 16GB")
    return int(float(match[1]) * units[match[2].upper()])


def run_command(command: Callable[[], None]) -> int:
    """Run a command and return its exit code; what a user can cause ends in a sentence, never in a traceback.

    What the library logs is printed, progress is shown, and a SIGTERM ends the command as Ctrl-C does, so that nothing
    is left half written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal, or a pipe: letters it lacks are shown escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    is_main_thread = threading.current_thread() is threading.main_thread()  # no other may choose what a signal does
    previous_handler = signal.signal(signal.SIGTERM, _interrupt) if is_main_thread else None
    try:
        with _printed_logs(), show_progress(True), memory_errors(_OUT_OF_MEMORY, hint=_OUT_OF_MEMORY_HINT):
            command()
    except ToolkitError as error:
        _print_error(str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        message = str(interrupt)
        print("interrupted" + (f" {escape_control_characters(message)}" if message else ""), file=sys.stderr)
        return EXIT_INTERRUPTED
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
    """Prints what the library logs: warnings on standard error, all else on standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        print(record.getMessage(), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


@contextmanager
def _printed_logs() -> Iterator[None]:
    logger, handler = logging.getLogger("toolkit"), _PrintHandler()
    previous_settings = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # packages that configure the root logger would print everything twice
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = previous_settings


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def explain_os_error(error: OSError) -> tuple[str, int]:
    """What the system refused, in a sentence with the path, and the exit code: 2 where the path was wrong, else 1."""
    path = final_name(str(error.filename or "a file"))
    path = path if len(path) <= _MAX_PATH_LENGTH else f"{path[:_MAX_PATH_LENGTH]}..."
    sentence, code = _OS_ERRORS.get(error.errno or 0, (f"{{}}: {error.strerror or first_line(error)}.", EXIT_FAILURE))
    return sentence.format(path), code
