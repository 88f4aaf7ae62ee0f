"""Sizes have a fitting unit, and lists of names a bounded length."""

import re

import pytest

from tests.conftest import ROOT
from toolkit.utils.formatting import format_bytes, join_names


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (512, "512 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (41_300, "41.3 kB"),
        (9_949_999, "9.95 MB"), (9_995_000, "10.0 MB"), (999_499_999, "999 MB"), (999_500_000, "1.00 GB"),
        (15_843_721_216, "15.8 GB"), (2.5e15, "2,500 TB"),
    ],
)  # fmt: skip
def test_sizes_have_a_fitting_unit(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_no_size_is_rounded_to_zero() -> None:
    assert all(float(format_bytes(n).split()[0].replace(",", "")) > 0 for n in range(1, 2_000_000, 977))


def test_sizes_are_formatted_in_one_place() -> None:
    """A division by a power of ten next to a unit would be a second format, with zeros for small sizes."""
    own = re.compile(r"/ 1e[69]|/ 1_?000_?000")
    users = [path.name for path in (ROOT / "toolkit").rglob("*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert users == []


@pytest.mark.parametrize(
    ("names", "conjunction", "text"),
    [
        ("a", "or", "a"), ("ab", "or", "a or b"), ("abc", "or", "a, b or c"), ("abc", None, "a, b, c"),
        ("abcd", "or", "a, b and 2 more"),
    ],
)  # fmt: skip
def test_names_are_joined_as_in_a_sentence(names: str, conjunction: str | None, text: str) -> None:
    assert join_names(names, conjunction, at_most=3) == text
