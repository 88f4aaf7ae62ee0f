"""A premise that is too long keeps its first words; where its first word alone is too long, that one's beginning."""

import pytest

from toolkit.errors import DataError
from toolkit.prompts.truncation import fit_premise


def encode(premise: str) -> list[str]:
    """A row as characters, with two of them for whatever else it holds."""
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
        ("abcdefge\u0301\u0323 x", "abcdefg"),  # the eighth, e, goes with its two marks
    ],
)
def test_whole_words_are_kept_and_else_whole_characters(premise: str, kept: str) -> None:
    tokens, shortened = fit_premise(premise, encode, 10)
    assert ("".join(tokens), shortened) == (f"<{kept}>", True)


def test_a_premise_that_fits_is_left_as_it_is() -> None:
    assert fit_premise("  a  b ", encode, 10) == (list("<  a  b >"), False)


@pytest.mark.parametrize(("premise", "room"), [("un deux", 2), ("漢字", 2), ("un deux", 1)])
def test_a_row_that_holds_nothing_of_its_premise_is_refused(premise: str, room: int) -> None:
    with pytest.raises(DataError, match="needs 2 tokens without its premise"):
        fit_premise(premise, encode, room)
