"""The roles of columns: texts are told from ids, dates, numbers and categories by their values."""

from typing import Any

import pytest

from toolkit.data.column_roles import find_roles, is_code, read_label_values
from toolkit.errors import DataError

ROWS = 40


def roles_of(*values: Any, name: str = "column") -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the inputs and the reasons against the others for a text, a label and one more column."""
    rows = [
        {"text": f"La phrase {n} finit ici.", "label": "ab"[n % 2] * 3, name: values[n % len(values)]}
        for n in range(ROWS)
    ]
    roles = find_roles(rows, ["text", "label", name], "label", "rows.csv")
    return roles.inputs, dict(roles.others)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["toujours pareil"], "the same text in every row"),
        (["12.5", "13.5", "0.1"], "numbers or codes"),
        (["Lyon", "Paris", "Lyon"], "2 different values"),
        (["le vélo", "le train", "la marche"], "3 different values"),
        ([f"12/0{n}/2024 10:00:00" for n in range(1, 9)], "numbers or codes"),
        (["Mon Apr 06 22:19:45 2009", "Tue Apr 07 01:02:03 2009", "Wed Apr 08 01:01:01 2009"], "numbers or codes"),
        ([1, 2, 3], "not text"),
        ([["a"], ["b"]], "not text"),
        ([None], "empty"),
        (["une phrase ici", ""], "empty in 20 rows"),
        ([f"(S (N mot{n}) (V va))" for n in range(ROWS)], "in brackets, like parse trees"),
        ([f"file{n}.jpg" for n in range(ROWS)], "a different code in each row"),
    ],
)
def test_columns_without_texts_are_explained(values: list[Any], reason: str) -> None:
    assert roles_of(*values) == (("text",), {"column": reason})


@pytest.mark.parametrize(
    "values", [[f"Un autre texte, {n}" for n in range(ROWS)], [f"これは{n}番目の文です" for n in range(ROWS)]]
)
def test_other_texts_are_inputs(values: list[str]) -> None:
    assert roles_of(*values) == (("text", "column"), {})


@pytest.mark.parametrize("name", ["id", "uid", "pairID", "sentence_id", "idx", "#1 ID"])
def test_unique_codes_are_ids_by_name(name: str) -> None:
    rows = [{"text": f"La phrase {n} ici.", "label": "ab"[n % 2] * 3, name: f"x{n}"} for n in range(ROWS)]
    assert find_roles(rows, ["text", "label", name], "label", "rows.csv").id == name
    assert roles_of(*[f"x{n}" for n in range(ROWS)], name="code") == (
        ("text",),
        {"code": "a different code in each row"},
    )


def test_single_words_are_used_without_sentences() -> None:
    names = ["Marie", "Jean", "Léa", "Paul", "Zoé", "Luc", "Anne", "Éric"]
    rows = [{"prénom": f"{names[n % 8]}{'abcdefgh'[n // 8]}", "genre": "fh"[n % 2], "ville": "Lyon"} for n in range(64)]
    roles = find_roles(rows, ["prénom", "genre", "ville"], "genre", "rows.csv")
    assert roles.inputs == ("prénom",) and roles.label_values.labels == {"f": 32, "h": 32}


def test_labels_are_ordered_and_counted() -> None:
    frequent = read_label_values("label", ["b", "a", "b", None, "c", "c", "b"] * 4, "rows.csv")
    assert list(frequent.labels.items()) == [("b", 12), ("c", 8), ("a", 4)] and frequent.unlabeled == 4
    numbers = read_label_values("label", ["10", "2", "-1"] * 9, "rows.csv")
    assert list(numbers.labels) == ["-1", "2", "10"]
    assert read_label_values("label", ["a", "-", "b"] * 9, "rows.csv").placeholders == {"-": 9}
    signs = read_label_values("label", ["+", "-"] * 9, "rows.csv")
    assert set(signs.labels) == {"+", "-"} and not signs.placeholders


def test_floats_and_booleans_become_labels() -> None:
    for values, labels in [((1.0, 0.0), ["0", "1"]), ((True, False), ["true", "false"]), (("1.0", "0.0"), ["0", "1"])]:
        rows = [{"text": f"La phrase {n} ici.", "label": values[n % 2]} for n in range(ROWS)]
        assert list(find_roles(rows, ["text", "label"], "label", "rows.csv").label_values.labels) == labels


@pytest.mark.parametrize(("value", "sentence"), [(["a", "b"], "one label"), ({"choice": "a"}, "label.choice")])
def test_nested_labels_are_refused(value: Any, sentence: str) -> None:
    with pytest.raises(DataError) as refusal:
        find_roles([{"text": "Il pleut ici.", "label": value}] * 4, ["text", "label"], "label", "rows.jsonl")
    assert sentence in f"{refusal.value} {refusal.value.hint}"


def test_codes_are_told_from_words() -> None:
    assert all(map(is_code, ["1", "-1", "2.5", "true", "e", "NEG", "ABBR"]))
    assert not any(map(is_code, ["positif", "entailment", "yes", "NEUTRAL", "été"]))
