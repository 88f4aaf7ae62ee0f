"""Examples: mapped columns and labels, errors that name the row, and the fingerprint."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.examples import fingerprint, load_examples
from toolkit.data.sources import Row
from toolkit.errors import DataError
from toolkit.evaluation.metrics import slice_metrics
from toolkit.recipe.data_section import Source
from toolkit.recipe.loading import build_recipe
from toolkit.recipe.schema import Recipe

Form = Literal["NFC", "NFD"]
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
    assert examples[16] == nli("17", "p16", "h16", "neutral")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "maybe"}, "row 17: label 'maybe' is not one of entailment, neutral, contradiction"),
        ({"label": None}, "row 17: column 'label' must contain a label, not None"),
        ({"premise": "  "}, "row 17: column 'premise' must contain text, not '  '"),
        ({"hypothesis": 3}, "row 17: column 'hypothesis' must contain text, not 3"),
    ],
)
def test_invalid_row_is_named(recipe: Recipe, tmp_path: Path, changes: Row, message: str) -> None:
    with pytest.raises(DataError) as raised:
        load(recipe, write_rows(tmp_path / "rows.jsonl", **changes))
    assert message in str(raised.value)


def write_table(path: Path, rows: list[Row]) -> Path:
    """Write rows in the format of the file's name. None is null, a missing key or an empty cell."""
    if path.suffix == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pandas.DataFrame(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


ABSENT: list[tuple[str, Row]] = [
    (".jsonl", {"label": None}),
    (".jsonl", {}),
    (".jsonl", {"label": ""}),
    (".jsonl", {"label": " \n"}),
    (".jsonl", {"label": float("nan")}),
    (".json", {"label": None}),
    (".json", {}),
    (".json", {"label": float("nan")}),
    (".csv", {"label": None}),
    (".csv", {"label": " "}),
    (".tsv", {"label": None}),
    (".parquet", {"label": None}),
]


@pytest.mark.parametrize(("suffix", "fields"), ABSENT)
def test_absent_label_is_never_text(make_recipe: MakeRecipe, tmp_path: Path, suffix: str, fields: Row) -> None:
    """Not even if a class is called as Python shows the absent value."""
    recipe = make_recipe("task.labels=['None', 'nan', '<NA>']", "data.columns.id=null", "evaluation.slice_by=[]")
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": label} for i, label in enumerate(recipe.task.labels)]
    path = write_table(tmp_path / f"rows{suffix}", [*rows, {"premise": "p", "hypothesis": "h"} | fields])
    with pytest.raises(DataError, match=r"row 4: column 'label' must contain a label, not "):
        load(recipe, path)
    assert [row.label for row in load(recipe, path, limit=3)] == ["None", "nan", "<NA>"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_quoted_empty_label_is_absent(recipe: Recipe, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text('premise,hypothesis,label\np,h,""\n'.replace(",", "\t" if suffix == ".tsv" else ","), "utf-8")
    with pytest.raises(DataError, match=r"row 1: column 'label' must contain a label, not ''"):
        load(recipe, path)


def test_parquet_nan_is_an_absent_label(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A column of floats has NaN where a table of integers had a gap."""
    recipe = make_recipe("task.labels=['0.0', 'nan']", "data.columns.id=null", "evaluation.slice_by=[]")
    table = pyarrow.table({"premise": ["p", "q"], "hypothesis": ["h", "h"], "label": [0.0, float("nan")]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="row 2: column 'label' must contain a label, not nan"):
        load(recipe, tmp_path / "rows.parquet")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("column", ["premise", "hypothesis"])
def test_absent_text_is_never_text(recipe: Recipe, tmp_path: Path, suffix: str, column: str) -> None:
    rows: list[Row] = [{"premise": "p", "hypothesis": "h", "label": label} for label in LABELS]
    rows[1][column] = None
    with pytest.raises(DataError, match=f"row 2: column '{column}' must contain text, not (None|'')"):
        load(recipe, write_table(tmp_path / f"rows{suffix}", rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_absent_ids_and_slices_are_no_text(
    make_recipe: MakeRecipe, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row gets its number as an id, and is in no slice. A warning counts such rows."""
    recipe = make_recipe("data.columns.id=key", "evaluation.slice_by=[genre]")
    rows: list[Row] = [
        {"premise": "p", "hypothesis": "h", "label": "neutral", "key": key, "genre": genre}
        for key, genre in [("a", "None"), (None, None), ("c", "news")]
    ]
    path = write_table(tmp_path / f"rows{suffix}", rows)
    with caplog.at_level("WARNING", "toolkit"):
        examples = load_examples(recipe, Source(path=str(path)))
    assert [(row.id, row.slices) for row in examples] == [("a", {"genre": "None"}), ("2", {}), ("c", {"genre": "news"})]
    assert "1 rows without a value in column 'genre'" in caplog.text
    slices = slice_metrics(examples[1:], ["neutral"] * 2, list(recipe.task.labels))
    assert {value: metrics["n"] for value, metrics in slices["genre"].items()} == {"news": 1}


@pytest.mark.parametrize("data_form", ["NFC", "NFD"])
@pytest.mark.parametrize("recipe_form", ["NFC", "NFD"])
def test_labels_match_in_any_unicode_form(
    make_recipe: MakeRecipe, tmp_path: Path, recipe_form: Form, data_form: Form
) -> None:
    """An example has the label as the recipe spells it."""
    vrai, faux, inconnu = (unicodedata.normalize(recipe_form, label) for label in ("vérité", "à côté", "indécis"))
    overrides = {
        "task.labels": [vrai, faux, inconnu],
        "task.verbalizers": {unicodedata.normalize(data_form, label): label for label in (vrai, faux, inconnu)},
        "data.label_map": {unicodedata.normalize(recipe_form, "é"): unicodedata.normalize(data_form, faux)},
    }
    values = make_recipe("data.columns.id=null", "evaluation.slice_by=[]").model_dump(mode="json")
    recipe = build_recipe(values, "recipe.yaml", overrides)
    assert tuple(recipe.task.verbalizers) == recipe.task.labels == (vrai, faux, inconnu)
    labels = [unicodedata.normalize(data_form, label) for label in (vrai, faux, inconnu, "é")]
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": f"{label} "} for i, label in enumerate(labels)]
    assert [row.label for row in load(recipe, write_table(tmp_path / "rows.csv", rows))] == [vrai, faux, inconnu, faux]


def test_missing_column_lists_the_available_ones(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="no column 'texte'; its columns are 'premise', 'hypothesis', 'label'"):
        load(make_recipe("data.columns.premise=texte", "data.columns.id=null"), path)
    with pytest.raises(DataError, match="no column 'genre'"):
        load_examples(make_recipe("evaluation.slice_by=[genre]", "data.columns.id=null"), Source(path=str(path)))


@pytest.mark.parametrize(("wanted", "given"), [("pr\u00e9misse", "pre\u0301misse"), ("premise", " premise")])
def test_similar_column_is_named(make_recipe: MakeRecipe, tmp_path: Path, wanted: str, given: str) -> None:
    """The two names look the same in the message, so the hint shows them in ASCII."""
    path = write_table(tmp_path / "rows.csv", [{given: "p", "hypothesis": "h", "label": "neutral"}])
    recipe = make_recipe(f"data.columns.premise={wanted}", "data.columns.id=null", "evaluation.slice_by=[]")
    with pytest.raises(DataError, match="has no column") as raised:
        load(recipe, path)
    assert f"{given!a} and {wanted!a} differ only in whitespace or in their Unicode form" in (raised.value.hint or "")


def test_label_column_is_not_a_text(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("data.columns.hypothesis=label", "data.columns.id=null", "evaluation.slice_by=[]")
    with pytest.raises(DataError, match=r"data\.columns names 'label' as the label and as a text"):
        load(recipe, write_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("value", [[None], {"a": None}, []])
@pytest.mark.parametrize("key", ["data.columns.id=x", "evaluation.slice_by=[x]"])
def test_nested_value_is_not_text(make_recipe: MakeRecipe, tmp_path: Path, key: str, value: object) -> None:
    path = write_rows(tmp_path / "rows.jsonl", x=value)
    with pytest.raises(DataError, match=r"row 17: column 'x' must contain text or a number, not [\[{]"):
        load_examples(make_recipe("data.columns.id=null", "evaluation.slice_by=[]", key), Source(path=str(path)))


def test_many_names_are_cut(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Neither many columns nor many labels make a message of a megabyte."""
    path = write_rows(tmp_path / "rows.jsonl", **{f"{i}{'x' * 500}": "" for i in range(500)})
    with pytest.raises(DataError, match=r"no column .y.; .* and 473 more") as missing:
        load(make_recipe("data.columns.premise=y", "data.columns.id=null"), path)
    labels = [f"{i}" for i in range(500)]
    recipe = build_recipe(
        make_recipe().model_dump(mode="json", exclude={"task": {"verbalizers"}}), "r", {"task.labels": labels}
    )
    with pytest.raises(DataError, match=r"is not one of 0, 1, .* and 470 more") as unknown:
        load_examples(recipe, Source(path=str(write_rows(tmp_path / "rows.jsonl", id="1", phenomenon="x"))))
    assert len(str(missing.value)) < 5000 and len(str(unknown.value)) < 2000


def test_columns_and_labels_are_mapped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tmp_path / "study.tsv"
    path.write_text("-e premise\thypo\tlabel\na\tb\t0\nc\td\t1\ne\tf\t2\n", encoding="utf-8")
    recipe = make_recipe(
        "data.columns={premise: -e premise, hypothesis: hypo, label: label}",
        "data.label_map={0: entailment, 1: neutral, 2: contradiction}",
    )
    assert [(*row.texts, row.label) for row in load(recipe, path)] == [
        ("a", "b", "entailment"),
        ("c", "d", "neutral"),
        ("e", "f", "contradiction"),
    ]


def test_label_without_training_rows_is_rejected(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row with label 'contradiction'"):
        load(recipe, write_rows(tmp_path / "rows.jsonl"), limit=2)


def test_fingerprint_covers_fields_and_order() -> None:
    a, b = nli("1", "p", "h", "neutral"), nli("2", "p", "h", "neutral")
    fingerprints = {fingerprint(rows) for rows in ([a, b], [b, a], [a], [nli("1", "ph", "", "neutral"), b])}
    assert len(fingerprints) == 4
    assert fingerprint([a, b]) == fingerprint([a, b])
