"""Examples: mapped columns and labels, errors that name the row, and the fingerprint."""

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


def write_rows(path: Path, count: int = 20, **changes: object) -> Path:
    """Write `count` valid rows. `changes` replace fields of row 17."""
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


def test_row_numbers_serve_as_ids(recipe: Recipe, tmp_path: Path) -> None:
    examples = load(recipe, write_rows(tmp_path / "rows.jsonl"))
    assert examples[16] == Example(id="17", premise="p16", hypothesis="h16", label="neutral")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "maybe"}, "row 17: label 'maybe' is not one of entailment, neutral, contradiction"),
        ({"label": None}, "row 17: label None is not one of"),
        ({"premise": "  "}, "row 17: column 'premise' must contain text, not '  '"),
        ({"hypothesis": 3}, "row 17: column 'hypothesis' must contain text, not 3"),
    ],
)
def test_invalid_row_is_named(recipe: Recipe, tmp_path: Path, changes: Row, message: str) -> None:
    with pytest.raises(DataError) as raised:
        load(recipe, write_rows(tmp_path / "rows.jsonl", **changes))
    assert message in str(raised.value)


def test_missing_column_lists_the_available_ones(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="no column 'texte'; its columns are 'premise', 'hypothesis', 'label'"):
        load(make_recipe("data.columns.premise=texte", "data.columns.id=null"), path)
    with pytest.raises(DataError, match="no column 'genre'"):
        load_examples(make_recipe("evaluation.slice_by=[genre]", "data.columns.id=null"), Source(path=str(path)))


def test_columns_and_labels_are_mapped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
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


def test_label_without_training_rows_is_rejected(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row with label 'contradiction'"):
        load(recipe, write_rows(tmp_path / "rows.jsonl"), limit=2)


def test_fingerprint_covers_fields_and_order() -> None:
    a, b = Example("1", "p", "h", "neutral"), Example("2", "p", "h", "neutral")
    fingerprints = {fingerprint(rows) for rows in ([a, b], [b, a], [a], [Example("1", "ph", "", "neutral"), b])}
    assert len(fingerprints) == 4
    assert fingerprint([a, b]) == fingerprint([a, b])
