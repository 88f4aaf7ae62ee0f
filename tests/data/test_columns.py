"""Columns: nested ones are found, and the first row of the data is not taken for a header."""

import pytest

from toolkit.data.columns import get_column, has_column, looks_like_data


def test_literal_column_comes_before_a_path() -> None:
    row = {"annotation.choice": "literal", "annotation": {"choice": "nested"}}
    assert get_column(row, "annotation.choice") == "literal"


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"a": {"b": {"c": 1}}}, 1),
        ({"a.b": {"c": 2}}, 2),
        ({"a": {"b.c": 3}}, 3),
        ({"a": {"b": 1}, "a.b": {"c": 4}}, 4),
        ({"a": {"b": None}}, None),
        ({"a": None}, None),
        ({"a": [{"b": 1}]}, None),
    ],
)
def test_path_leads_through_objects(row: dict[str, object], value: object) -> None:
    assert get_column(row, "a.b.c") == value
    assert has_column([{}, row], "a.b.c") == (value is not None)


def test_null_column_exists() -> None:
    assert has_column([{"a": {"b": None}}], "a.b") and not has_column([{"a": {}}], "a.b")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["premise", "hypothesis", "label"], False),
        (["3", "Wall St. Bears Claw Back", "Short-sellers are seeing green again."], True),
        (["Il a mangé.", "Il mange la pomme.", "entails"], True),
        (["0", "1", "2"], False),
        (["", "0", "1"], False),
        (["1", "good"], True),
        (["text", "positive"], True),
        (["text", "label", "sentence one"], False),
    ],
)
def test_first_row_looks_like_data(header: list[str], expected: bool) -> None:
    assert looks_like_data(header, labels=["positive", "negative"]) == expected
