"""Rows passed to the API: pairs, dictionaries and DataFrames are read, and invalid rows are rejected by number."""

from collections.abc import Callable
from typing import Any

import numpy
import pandas
import pytest

from toolkit.data.inputs import read_inputs, read_labels
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
PAIRS = [("Il pleut.", "Il neige."), ("Il dort.", "Il court.")]
INPUTS = [{"premise": premise, "hypothesis": hypothesis} for premise, hypothesis in PAIRS]


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe("data.columns={premise: texte, hypothesis: suite}")


def dictionaries(premise: str, hypothesis: str) -> list[dict[str, str]]:
    """Return the pairs as dictionaries with these keys and other fields around them."""
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
def test_all_row_types_are_read(rows: Any, recipe: Recipe) -> None:
    assert read_inputs(rows, recipe) == INPUTS


def test_recipe_column_takes_precedence(recipe: Recipe, make_recipe: MakeRecipe) -> None:
    row = {"premise": "no", "hypothesis": "no", "texte": "a", "suite": "b"}
    assert read_inputs([row], recipe) == [{"premise": "a", "hypothesis": "b"}]
    assert read_inputs([row], make_recipe()) == [{"premise": "no", "hypothesis": "no"}]


@pytest.mark.parametrize("rows", [[], (), pandas.DataFrame({"premise": [], "hypothesis": []})])
def test_empty_input_gives_no_pairs(rows: Any, recipe: Recipe) -> None:
    assert read_inputs(rows, recipe) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("a",), r"\('a',\) is not a premise and a hypothesis"),
        (("a", "b", "c"), r"\('a', 'b', 'c'\) is not a premise and a hypothesis"),
        ("ab", "'ab' is not a premise and a hypothesis"),
        (b"ab", "b'ab' is not a premise and a hypothesis"),
        (None, "None is not a premise and a hypothesis"),
        ({"premise": "a"}, "it has no key 'suite', only 'premise'"),
        ({"texte": "a", "texte2": "b"}, "it has no key 'suite', only 'texte', 'texte2'"),
        (("a", "  "), "column 'hypothesis' must contain text, not '  '"),
        ((3, "b"), "column 'premise' must contain text, not 3"),
        ({"texte": None, "hypothesis": "b"}, "column 'texte' must contain text, not None"),
        (("a", "\ud800"), r"column 'hypothesis' contains half of a character"),
    ],
)
def test_invalid_row_is_rejected_by_number(row: Any, reason: str, recipe: Recipe) -> None:
    with pytest.raises(DataError, match=rf"^row 2: {reason}[^;]*\.$") as raised:
        read_inputs([PAIRS[0], row, PAIRS[1]], recipe)
    assert raised.value.hint == "Give each row as (premise, hypothesis) or as a dictionary."


def test_missing_dataframe_value_is_rejected(recipe: Recipe) -> None:
    table = pandas.DataFrame({"premise": ["a", None, float("nan")], "hypothesis": ["b", "c", "d"]}, index=[9, 8, 7])
    with pytest.raises(
        DataError, match=r"^row 2: column 'premise' must contain text, not .*; row 3: .* \(2 rows are invalid\)\.$"
    ):
        read_inputs(table, recipe)


def test_only_first_three_errors_are_listed(recipe: Recipe) -> None:
    with pytest.raises(DataError) as raised:
        read_inputs([("a", "")] * 9, recipe)
    message = str(raised.value)
    assert message.endswith("(9 rows are invalid).") and "row 3: " in message and "row 4" not in message


@pytest.mark.parametrize(
    "rows", ["Il pleut.", b"Il pleut.", {"premise": "a", "hypothesis": "b"}], ids=["str", "bytes", "dict"]
)
def test_single_row_is_rejected(rows: Any, recipe: Recipe) -> None:
    with pytest.raises(DataError, match=f"Expected a list of rows, not a single {type(rows).__name__}") as raised:
        read_inputs(rows, recipe)
    assert '[("premise", "hypothesis")]' in (raised.value.hint or "")


def test_labels_are_read_as_in_files(make_recipe: MakeRecipe) -> None:
    """Labels for `Classifier.score` are mapped and compared in any Unicode form. Absent ones are never text."""
    recipe = make_recipe("task.labels=['None', v\u00e9rit\u00e9, '<NA>']", "data.label_map={2: '<NA>'}")
    values = ["ve\u0301rite\u0301", " None", 2, "2", numpy.int64(2), numpy.str_("<NA>")]
    assert read_labels(values, recipe) == ["v\u00e9rit\u00e9", "None", "<NA>", "<NA>", "<NA>", "<NA>"]
    for absent in (None, float("nan"), numpy.nan, pandas.NA, pandas.NaT, "", " "):
        with pytest.raises(DataError, match=r"^row 2: column 'label' must contain a label, not "):
            read_labels(["None", absent], recipe)
    with pytest.raises(DataError, match=r"^row 1: label 3 is not one of None, v\u00e9rit\u00e9, <NA>\.$"):
        read_labels([3], recipe)


def test_repeated_dataframe_column_is_rejected(recipe: Recipe) -> None:
    table = pandas.DataFrame([["a", "b", "c"]], columns=["premise", "hypothesis", "premise"])
    with pytest.raises(DataError, match="two columns named 'premise'"):
        read_inputs(table, recipe)


SINGLE = ("task.user='{text}'", "data.columns={text: annotation.body}")


@pytest.mark.parametrize(
    "rows",
    [
        ["Il pleut.", " Il dort.\n"],
        [("Il pleut.",), ["Il dort."]],
        pandas.Series(["Il pleut.", "Il dort."]),
        numpy.array(["Il pleut.", "Il dort."]),
        [{"text": "Il pleut."}, {"annotation": {"body": "Il dort."}}],
        pandas.DataFrame({"text": ["Il pleut.", "Il dort."]}),
    ],
    ids=["texts", "tuples", "series", "array", "dictionaries", "DataFrame"],
)
def test_single_input_is_read_as_text(rows: Any, make_recipe: MakeRecipe) -> None:
    assert read_inputs(rows, make_recipe(*SINGLE)) == [{"text": "Il pleut."}, {"text": "Il dort."}]


def test_single_input_errors_name_it(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(*SINGLE)
    with pytest.raises(DataError, match=r"row 1: None is not a text; row 2: \('a', 'b'\) is not a text") as raised:
        read_inputs([None, ("a", "b")], recipe)
    assert raised.value.hint == "Give each row as a text or as a dictionary."
    with pytest.raises(DataError, match="not a single str") as raised:
        read_inputs("Il pleut.", recipe)
    assert raised.value.hint == 'Write ["text"] or [{"text": ...}].'


def test_three_inputs_are_read_in_order(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("task.user='{question} {context} {candidate}'")
    row = {"question": "a", "context": "b", "candidate": "c"}
    assert read_inputs([("a", "b", "c"), row], recipe) == [row, row]
    with pytest.raises(DataError, match=r"row 1: \('a', 'b'\) is not a question, a context and a candidate\.$"):
        read_inputs([("a", "b")], recipe)


def test_columns_of_either_source_are_known(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("data.train.columns={premise: texte}", "data.eval.columns={premise: phrase}")
    for name in ("texte", "phrase", "premise"):
        assert read_inputs([{name: "a", "hypothesis": "b"}], recipe) == [{"premise": "a", "hypothesis": "b"}]
