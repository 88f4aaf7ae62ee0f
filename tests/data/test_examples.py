"""Checks on rows: mapping, refusals that name the row, fingerprint."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint, load_examples
from toolkit.data.sources import Row
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe, Source

MakeRecipe = Callable[..., Recipe]
LABELS = ["entailment", "neutral", "contradiction"]


def rows_file(path: Path, count: int = 20, **changes: object) -> Path:
    """`count` good rows; `changes` replace fields of the row 17."""
    rows: list[Row] = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": LABELS[i % 3]} for i in range(count)]
    if changes:
        rows[16] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(recipe: Recipe, path: Path, **source: object) -> list[Example]:
    return load_examples(recipe, Source(path=str(path), **source), is_training=True)


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe("data.columns.id=null", "evaluation.slice_by=[]")


def test_rows_are_numbered_from_one_without_an_id_column(recipe: Recipe, tmp_path: Path) -> None:
    examples = load(recipe, rows_file(tmp_path / "rows.jsonl"))
    assert examples[16] == Example(id="17", premise="p16", hypothesis="h16", label="neutral")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": "maybe"}, "row 17: its label is 'maybe', which is not one of entailment, neutral, contradiction"),
        ({"label": None}, "row 17: its label is None"),
        ({"premise": "  "}, "row 17: column 'premise' holds '  ', not a text"),
        ({"hypothesis": 3}, "row 17: column 'hypothesis' holds 3, not a text"),
    ],
)
def test_a_bad_row_is_named(recipe: Recipe, tmp_path: Path, changes: Row, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        load(recipe, rows_file(tmp_path / "rows.jsonl", **changes))
    assert sentence in str(refused.value)


def test_a_missing_column_lists_those_that_there_are(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = rows_file(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="no column 'texte'; its columns are 'premise', 'hypothesis', 'label'"):
        load(make_recipe("data.columns.premise=texte", "data.columns.id=null"), path)
    with pytest.raises(DataError, match="no column 'genre'"):
        load_examples(make_recipe("evaluation.slice_by=[genre]", "data.columns.id=null"), Source(path=str(path)))


def test_odd_column_names_and_labels_are_mapped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tmp_path / "study.tsv"
    path.write_text("-e premise\thypo\tlabel\na\tb\t0\nc\td\t1\ne\tf\t2\n", encoding="utf-8")
    recipe = make_recipe(
        "data.columns={premise: -e premise, hypothesis: hypo, label: label}",
        "data.label_map={0: entailment, 1: neutral, 2: contradiction}",
    )
    assert [(row.premise, row.hypothesis, row.label) for row in load(recipe, path)] == [
        ("a", "b", "entailment"),
        ("c", "d", "neutral"),
        ("e", "f", "contradiction"),
    ]


def test_a_label_without_training_rows_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row of label 'contradiction'"):
        load(recipe, rows_file(tmp_path / "rows.jsonl"), limit=2)


def test_the_fingerprint_sees_every_field_and_the_order() -> None:
    a, b = Example("1", "p", "h", "neutral"), Example("2", "p", "h", "neutral")
    prints = {fingerprint(rows) for rows in ([a, b], [b, a], [a], [Example("1", "ph", "", "neutral"), b])}
    assert len(prints) == 4
    assert fingerprint([a, b]) == fingerprint([a, b])
