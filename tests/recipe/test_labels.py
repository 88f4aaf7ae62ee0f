"""Labels: values that are the same label, suggestions, and the mistakes in merged labels."""

import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import RecipeError
from toolkit.recipe.labels import (
    MAX_LABELS,
    find_label_errors,
    label_texts,
    left_out_texts,
    normalize_label,
    suggest_label,
)
from toolkit.recipe.loading import diff_recipes, dump_recipe, load_recipe
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("same", "normalized"),
    [
        ([1, 1.0, "1", "1.0", " 1.00 ", np.int64(1), np.float32(1), Decimal("1.0")], "1"),
        ([0, 0.0, "0.0"], "0"),
        ([-1, -1.0, "-1.0"], "-1"),
        ([True, "true", "True", np.bool_(True)], "true"),
        ([False, "false", "False"], "false"),
        ([10**15, 1e15, "1000000000000000.0"], "1000000000000000"),
        ([unicodedata.normalize("NFC", "vérité"), unicodedata.normalize("NFD", "vérité") + "\n"], "v\u00e9rit\u00e9"),
    ],
)
def test_same_values_are_the_same_label(same: list[Any], normalized: str) -> None:
    assert {normalize_label(value) for value in same} == {normalized}


@pytest.mark.parametrize(
    "name", ["01", "01.0", "1e3", "1.50", "1.5", "1.", "+1.0", "-0.0", "1.0.0", "TRUE", "١.0", "v1.0"]
)
def test_other_spellings_of_numbers_stay(name: str) -> None:
    """They can be names: a department, a version."""
    assert normalize_label(name) == name


@given(st.integers())
def test_large_integers_keep_every_digit(number: int) -> None:
    assert normalize_label(number) == normalize_label(f"{number}.000") == str(number)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans()))
def test_normalization_is_idempotent(value: Any) -> None:
    assert normalize_label(normalize_label(value)) == normalize_label(value)


def test_label_keeps_the_recipes_spelling() -> None:
    texts = label_texts(["1.0", "2"], {"True": "1", False: "2.0", "-": None})
    assert texts == {"1": "1.0", "2": "2", "true": "1.0", "false": "2"}
    assert left_out_texts({"-": None, 2.0: None, "x": "1"}) == {"-", "2"}


def test_case_is_suggested_and_never_matched() -> None:
    assert suggest_label("Positive", ["negative", "positive"]) == (
        "; did you mean 'positive'? labels are case-sensitive"
    )
    assert suggest_label("not entailment", ["entailment", "not_entailment"]) == "; did you mean 'not_entailment'?"
    assert suggest_label("other", ["positive", "negative"]) == ""


def test_ten_thousand_labels_are_refused() -> None:
    (mistake,) = find_label_errors([f"label {i}" for i in range(10_000)])
    assert mistake.startswith("has 10,000 labels, but at most 1,000 are possible, because every row is scored with")
    assert find_label_errors([f"label {i}" for i in range(MAX_LABELS)]) == []


def test_many_labels_make_short_messages() -> None:
    (mistake,) = find_label_errors([f"label {i}" for i in range(500)] + ["label 3"])
    assert "and 472 more] lists a label twice" in mistake and len(mistake) < 600


def test_label_map_survives_the_saved_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Its keys become text, which means the same."""
    recipe = make_recipe("data.label_map={'-': null, 2.0: neutral, true: entailment, x: contradiction}")
    (tmp_path / "saved.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    saved = load_recipe(tmp_path / "saved.yaml")
    label_maps = [label_texts(recipe.task.labels, data.label_map) for data in (recipe.data, saved.data)]
    assert label_maps[0] == label_maps[1] and {"2", "true", "x"} < set(label_maps[0])
    assert left_out_texts(saved.data.label_map) == {"-"} and diff_recipes(recipe, saved) == {}


@pytest.mark.parametrize(
    ("merged", "sentence"),
    [
        (
            "{x: [Neutral, contradiction]}",
            "'Neutral' is not one of the labels ['entailment', 'neutral', 'contradiction'];",
        ),
        ("{x: [maybe, contradiction]}", "'maybe' is not one of the labels"),
        ("{x: [neutral, neutral]}", "'neutral' is listed twice, so its probability would count twice"),
        ("{x: [neutral], y: [neutral, contradiction]}", "'neutral' is listed twice"),
        ("{entailment: [neutral, contradiction]}", "'entailment' is also a label that is not part of it"),
        ("{x: [neutral, entailment], neutral: [contradiction]}", "'neutral' is also a label that is not part of it"),
        ("{x: [neutral, contradiction, entailment]}", "only 'x' is left, so every answer would be right"),
        ("{x: []}", "'x' has no labels; list those that are measured as one"),
        ("{' x': [neutral, contradiction]}", "' x' starts or ends with whitespace"),
        (
            "{x: [neutral], 'x\u0301': [entailment], '\u1e8d': [contradiction], 'x\u0308': []}",
            "'x\u0308' has no labels",
        ),
        ("{'1': [neutral], '1.0': [contradiction]}", "'1' and '1.0' are the same label"),
        ("{x: neutral}", "'neutral' cannot be used; it should be a list."),
        ("{1: [neutral, contradiction]}", "1 is a number, not text; put such values in quotation marks."),
    ],
)
def test_invalid_merged_labels_are_refused(make_recipe: MakeRecipe, merged: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        make_recipe(f"evaluation.merge_labels={merged}")
    assert f"evaluation.merge_labels: {sentence}" in str(error.value) and "\n" not in str(error.value)


def test_label_map_can_name_a_merged_label(make_recipe: MakeRecipe) -> None:
    """In evaluation rows, whose labels can be two-way; not in training rows."""
    merged = "evaluation.merge_labels={not_entailment: [neutral, contradiction]}"
    for key in ("data.label_map", "data.eval.label_map"):
        make_recipe(merged, f"{key}={{0: entailment, 1: not_entailment}}")
    with pytest.raises(RecipeError, match=r"data\.train\.label_map: 'not_entailment' is not one of the labels"):
        make_recipe(merged, "data.train.label_map={0: entailment, 1: not_entailment}")
