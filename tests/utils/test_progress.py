"""Progress: reported only if a caller asks for it, as bars or through a callback."""

from collections.abc import Iterator
from typing import Any

import pytest

from toolkit.utils.progress import progress_bar, show_progress

Report = tuple[str, int, int | None]


def work(rows: int = 3, **options: Any) -> None:
    """Loop over some rows with a progress bar."""
    for _ in progress_bar(range(rows), desc="scoring", unit="row", **options):
        pass


@pytest.fixture
def reports() -> list[Report]:
    """The reports that a callback received."""
    return []


def test_the_library_is_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert capsys.readouterr() == ("", "")


def test_true_draws_bars_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(True):
        work()
        work(disable=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "3/3" in captured.err and captured.err.count("scoring: 100%") == 1
    work()
    assert capsys.readouterr().err == "", "the choice ends with the block"


def test_false_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(False):
        work()
    assert capsys.readouterr() == ("", "")


def test_callback_gets_name_count_and_total(reports: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(lambda *report: reports.append(report)):
        work(mininterval=0)
        work(disable=True)
    assert reports == [("scoring", 1, 3), ("scoring", 2, 3), ("scoring", 3, 3), ("scoring", 3, 3)], (
        "the last one is repeated when the bar closes"
    )
    assert capsys.readouterr() == ("", ""), "nothing is drawn"


def test_unknown_total_is_none(reports: list[Report]) -> None:
    def rows() -> Iterator[int]:
        yield from range(5)

    with show_progress(lambda *report: reports.append(report)):
        assert list(progress_bar(rows())) == [0, 1, 2, 3, 4]
    assert reports[-1] == ("", 5, None)


def test_manually_updated_bar_reports(reports: list[Report]) -> None:
    with (
        show_progress(lambda *report: reports.append(report)),
        progress_bar(total=10, initial=4, desc="predicting", mininterval=1000) as bar,
    ):
        bar.update(5)
        bar.update(1)
        assert reports == []
        bar.set_description("writing")
    assert reports == [("writing", 10, 10)] * 2, "the end is reported whatever the interval"


def test_innermost_choice_wins(reports: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(True):
        with show_progress(False):
            work()
        with show_progress(lambda *report: reports.append(report)), pytest.raises(ZeroDivisionError):
            work(1 // 0)
        assert capsys.readouterr().err == "" and reports == []
        work()
    assert "3/3" in capsys.readouterr().err, "an error inside must restore the outer choice"
