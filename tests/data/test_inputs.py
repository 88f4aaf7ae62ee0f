"""Rows as the API accepts them: pairs, dictionaries and tables become texts, or are refused by their numbers."""

from typing import Any

import pandas
import pytest

from toolkit.data.inputs import read_pairs
from toolkit.errors import DataError
from toolkit.recipe.schema import Columns

COLUMNS = Columns(premise="texte", hypothesis="suite")
PAIRS = [("Il pleut.", "Il neige."), ("Il dort.", "Il court.")]


def dictionaries(premise: str, hypothesis: str) -> list[dict[str, str]]:
    """The pairs under these names, between other fields."""
    return [{"id": "7", hypothesis: b, premise: a, "label": "neutral"} for a, b in PAIRS]


@pytest.mark.parametrize(
    "rows",
    [
        PAIRS,
        tuple(PAIRS),
        [list(pair) for pair in PAIRS],
        (pair for pair in PAIRS),
        [(f" {a}\n", f"\t{b} ") for a, b in PAIRS],
        dictionaries("premise", "hypothesis"),
        dictionaries("texte", "suite"),
        dictionaries("texte", "hypothesis"),
        pandas.DataFrame(dictionaries("premise", "hypothesis")),
        pandas.DataFrame(dictionaries("texte", "suite"), index=[17, 4]),
    ],
    ids=[
        "list", "tuple", "lists", "generator", "white space", "input names", "column names", "mixed names", "DataFrame",
        "DataFrame with an index",
    ],
)  # fmt: skip
def test_rows_of_every_form_are_read(rows: Any) -> None:
    assert read_pairs(rows, COLUMNS) == PAIRS


def test_the_recipes_column_comes_before_the_inputs_name() -> None:
    row = {"premise": "no", "hypothesis": "no", "texte": "a", "suite": "b"}
    assert read_pairs([row], COLUMNS) == [("a", "b")]
    assert read_pairs([row], Columns()) == [("no", "no")]


@pytest.mark.parametrize("rows", [[], (), pandas.DataFrame({"premise": [], "hypothesis": []})])
def test_no_rows_are_no_pairs(rows: Any) -> None:
    assert read_pairs(rows, COLUMNS) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("a",), r"it is \('a',\), not a premise and a hypothesis"),
        (("a", "b", "c"), r"it is \('a', 'b', 'c'\), not a premise and a hypothesis"),
        ("ab", "it is 'ab', not a premise and a hypothesis"),
        (b"ab", "it is b'ab', not a premise and a hypothesis"),
        (None, "it is None, not a premise and a hypothesis"),
        ({"premise": "a"}, "it has no 'suite'; its keys are 'premise'"),
        ({"texte": "a", "texte2": "b"}, "it has no 'suite'; its keys are 'texte', 'texte2'"),
        (("a", "  "), "column 'hypothesis' holds '  ', not a text"),
        ((3, "b"), "column 'premise' holds 3, not a text"),
        ({"texte": None, "hypothesis": "b"}, "column 'texte' holds None, not a text"),
        (("a", "\ud800"), r"column 'hypothesis' holds half of a character"),
    ],
)
def test_a_bad_row_is_refused_by_its_number(row: Any, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^row 2: {reason}[^;]*\.$") as refused:
        read_pairs([PAIRS[0], row, PAIRS[1]], COLUMNS)
    assert refused.value.hint == "Give each row as (premise, hypothesis), or as a dictionary."


def test_a_missing_value_of_a_table_is_refused() -> None:
    table = pandas.DataFrame({"premise": ["a", None, float("nan")], "hypothesis": ["b", "c", "d"]}, index=[9, 8, 7])
    with pytest.raises(DataError, match=r"^row 2: column 'premise' holds .*; row 3: .* \(2 rows cannot be used\)\.$"):
        read_pairs(table, COLUMNS)


def test_the_first_of_many_bad_rows_are_named() -> None:
    with pytest.raises(DataError) as refused:
        read_pairs([("a", "")] * 9, COLUMNS)
    message = str(refused.value)
    assert message.endswith("(9 rows cannot be used).") and "row 3: " in message and "row 4" not in message


@pytest.mark.parametrize(
    "rows", ["Il pleut.", b"Il pleut.", {"premise": "a", "hypothesis": "b"}], ids=["str", "bytes", "dict"]
)
def test_a_single_row_is_refused(rows: Any) -> None:
    with pytest.raises(DataError, match=f"A single {type(rows).__name__} was given, not a list of rows") as refused:
        read_pairs(rows, COLUMNS)
    assert '[("premise", "hypothesis")]' in (refused.value.hint or "")
