"""Truncation: an input that is too long keeps its first words, or the beginning of its first word."""

import pytest

from toolkit.errors import DataError
from toolkit.prompts.truncation import truncate_input


def encode(premise: str) -> list[str]:
    """Return a row as characters: those of the premise, and one on each side for the rest of the row."""
    return ["<", *premise, ">"]


@pytest.mark.parametrize(
    ("premise", "kept"),
    [
        ("un deux trois quatre", "un deux"),
        ("un  deux\ttrois quatre", "un deux"),
        ("https://example.org/a/b/c et la suite", "https://"),
        ("https://example.org", "https://"),
        ("漢字仮名交じり文の長い前提", "漢字仮名交じり文"),
        ("        court        ", "court"),
        ("abcdefge\u0301\u0323 x", "abcdefg"),  # the eighth character, e, is dropped with its two combining marks
    ],
)
def test_premise_is_cut_between_words_or_characters(premise: str, kept: str) -> None:
    tokens, shortened = truncate_input("premise", premise, encode, 10)
    assert ("".join(tokens), shortened) == (f"<{kept}>", True)


def test_premise_that_fits_is_unchanged() -> None:
    assert truncate_input("premise", "  a  b ", encode, 10) == (list("<  a  b >"), False)


@pytest.mark.parametrize(("premise", "max_tokens"), [("un deux", 2), ("漢字", 2), ("un deux", 1)])
def test_row_without_room_for_its_premise_is_rejected(premise: str, max_tokens: int) -> None:
    with pytest.raises(DataError, match=r"needs 2 (tokens|of the 2 tokens) without its premise"):
        truncate_input("premise", premise, encode, max_tokens)
