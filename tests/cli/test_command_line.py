"""The common behavior of the commands: printed messages, progress, interrupts, and types of flags."""

import argparse
import logging
import os
import signal
import time
from collections.abc import Callable

import pytest

from toolkit.cli.command_line import byte_size, positive, positive_or_all, run_command, share, utf8_text
from toolkit.utils.progress import progress_bar


def test_library_messages_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("toolkit")
    before = (logger.level, logger.propagate, list(logger.handlers))

    def command() -> None:
        logging.getLogger("toolkit.training").info("step %d", 3)
        logger.warning("beware")
        logger.debug("detail")

    assert run_command(command) == 0
    assert capsys.readouterr() == ("step 3\n", "beware\n")
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_commands_show_progress(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        list(progress_bar(range(3), desc="scoring"))

    assert run_command(work) == 0
    assert "scoring: 100%" in capsys.readouterr().err
    work()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("interrupt", "printed"),
    [
        (KeyboardInterrupt(), "interrupted\n"),
        (KeyboardInterrupt("2 of 3 rows are saved."), "interrupted: 2 of 3 rows are saved.\n"),
    ],
)
def test_interrupt_is_one_line(interrupt: KeyboardInterrupt, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise interrupt

    assert run_command(command) == 130
    assert capsys.readouterr() == ("", printed)


def test_sigterm_acts_like_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    def callers_handler(*_: object) -> None:
        raise AssertionError("the handler of the caller was called")

    before = signal.signal(signal.SIGTERM, callers_handler)
    try:
        assert run_command(command) == 130
        assert capsys.readouterr().err == "interrupted\n"
        assert signal.getsignal(signal.SIGTERM) is callers_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (byte_size, "16GB", 16_000_000_000), (byte_size, "15.8 gb", 15_800_000_000), (byte_size, "24GiB", 24 * 2**30),
        (byte_size, "512MB", 512_000_000), (byte_size, "2MiB", 2**21), (byte_size, "8", 8_000_000_000),
        (positive, "3", 3), (positive_or_all, "all", "all"), (positive_or_all, "5", 5), (share, "0.95", 0.95),
        (share, "1", 1.0),
    ],
)  # fmt: skip
def test_flag_values_are_parsed(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (byte_size, "0GB"), (byte_size, "16TB"), (byte_size, "much"), (byte_size, "-1GB"), (positive, "0"),
        (positive, "x"), (positive_or_all, "none"), (positive_or_all, "0"), (share, "0"), (share, "1.01"),
        (share, "nan"),
    ],
)  # fmt: skip
def test_bad_flag_values_are_rejected(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        parse(text)


def test_arguments_are_utf8_in_every_locale() -> None:
    assert utf8_text("été") == "été"
    # An ASCII locale leaves bytes as lone surrogates; how they are stored depends on the locale of this process.
    assert utf8_text(os.fsdecode("été".encode())) == "été"
    with pytest.raises(argparse.ArgumentTypeError, match="is not UTF-8 text"):
        utf8_text(os.fsdecode(b"\xff"))
