"""Labels of rows as files have them: other types, left-out rows, own label maps, and columns without labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import yaml

from tests.conftest import RECIPE
from toolkit.data.example import Example
from toolkit.data.examples import fingerprint, label_counts, load_examples, load_rows, row_inputs, with_task_labels
from toolkit.data.splits import load_splits
from toolkit.errors import DataError
from toolkit.recipe.data_section import Source
from toolkit.recipe.loading import build_recipe, load_recipe
from toolkit.recipe.schema import Recipe

MakeTask = Callable[..., Recipe]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """A function that builds a recipe with one input, text. Its arguments are overrides."""
    task = {"labels": ["positive", "negative"], "system": "Judge.", "user": "{text}"}
    values = {**RECIPE, "task": task, "evaluation": {}, "data": {"train": {"path": "a.csv"}, "eval": {"path": "b.csv"}}}
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return lambda *overrides: load_recipe(path, overrides)


def write(path: Path, labels: list[Any], **columns: list[Any]) -> Source:
    """Write a row for each label, in the format of the file's name, and return the source."""
    rows = {"text": [f"text {i}" for i in range(len(labels))], "label": labels} | columns
    if path.suffix == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        pandas.DataFrame(rows).to_csv(path, index=False)
    return Source(path=str(path))


def labels_of(examples: list[Example]) -> list[str]:
    return [example.label for example in examples]


def refuse(recipe: Recipe, source: Source, **options: Any) -> tuple[str, str]:
    """Return the message and the hint of the refusal."""
    with pytest.raises(DataError) as raised:
        load_rows(recipe, source, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value), raised.value.hint or ""


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "keys", ["0: negative, 1: positive", "'0': negative, '1.0': positive", "0.0: negative, '1': positive"]
)
@pytest.mark.parametrize("values", [[0, 1, 1], [0.0, 1.0, 1.0], ["0", "1", "1"], ["0.0", "1.0", "1.0"]])
def test_numbers_match_in_any_type(
    make_task: MakeTask, tmp_path: Path, suffix: str, keys: str, values: list[Any]
) -> None:
    recipe = make_task(f"data.label_map={{{keys}}}")
    examples = load_examples(recipe, write(tmp_path / f"rows{suffix}", values))
    assert labels_of(examples) == ["negative", "positive", "positive"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("values", [[True, False], ["True", "False"], ["true", "false"]])
def test_truth_values_match_in_any_type(make_task: MakeTask, tmp_path: Path, suffix: str, values: list[Any]) -> None:
    source = write(tmp_path / f"rows{suffix}", values)
    assert labels_of(load_examples(make_task("data.label_map={true: positive, false: negative}"), source)) == [
        "positive",
        "negative",
    ]
    assert labels_of(load_examples(make_task("task.labels=['True', 'false']"), source)) == ["True", "false"]


def test_integers_with_a_gap_become_floats(make_task: MakeTask, tmp_path: Path) -> None:
    """As in a table that pandas read: the gap is NaN, and the labels 1 and 2 are floats."""
    source = write(tmp_path / "rows.parquet", [1, 2, np.nan, 2])
    recipe = make_task("task.labels=['1', '2']", "data.unlabeled=skip")
    loaded = load_rows(recipe, source)
    assert labels_of(loaded.examples) == ["1", "2", "2"] and loaded.left_out == {"(no label)": 1}


def test_categories_of_parquet_are_labels(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet", pandas.Categorical(["negative", "positive", "negative"]))
    assert labels_of(load_examples(make_task(), source)) == ["negative", "positive", "negative"]


def test_names_with_blanks_and_accents(make_task: MakeTask, tmp_path: Path) -> None:
    recipe = make_task("task.labels=['très bien', 'à revoir']", "data.label_map={bon: très bien, parfait: très bien}")
    labels = [" tre\u0300s bien", "à revoir ", "bon", "parfait"]
    examples = load_examples(recipe, write(tmp_path / "rows.jsonl", labels))
    assert labels_of(examples) == ["très bien", "à revoir", "très bien", "très bien"]


def test_other_case_is_refused_with_the_match(make_task: MakeTask, tmp_path: Path) -> None:
    message, hint = refuse(make_task(), write(tmp_path / "rows.csv", ["positive", "Positive"]))
    assert (
        "row 2: label 'Positive' is not one of positive, negative; did you mean 'positive'? labels are case-sensitive"
        in message
    )
    assert hint == (
        'Fix the rows, or map the value with data.label_map: {"Positive": positive}; {"Positive": null} leaves out its '
        "rows."
    )


def test_null_in_the_label_map_leaves_rows_out(
    make_task: MakeTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else in such a row is checked. The ids are the numbers of the rows in the file."""
    source = write(tmp_path / "rows.jsonl", ["positive", "-", "negative", "-"], text=["a", "", "b", "c"])
    with caplog.at_level("INFO", "toolkit"):
        loaded = load_rows(make_task("data.label_map={'-': null}"), source, is_training=True)
    assert [(row.id, row.label) for row in loaded.examples] == [("1", "positive"), ("3", "negative")]
    assert loaded.left_out == {"-": 2}
    assert "2 with the label '-'" in caplog.text and "rows.jsonl" in caplog.text


@pytest.mark.parametrize("absent", [None, "", " ", float("nan")])
def test_rows_without_label_are_skipped_on_request(make_task: MakeTask, tmp_path: Path, absent: Any) -> None:
    source = write(tmp_path / "rows.jsonl", ["positive", absent, "negative"])
    message, hint = refuse(make_task(), source)
    assert "row 2: column 'label' must contain a label, not " in message
    assert "data.unlabeled: skip" in hint
    loaded = load_rows(make_task("data.unlabeled=skip"), source)
    assert len(loaded.examples) == 2 and loaded.left_out == {"(no label)": 1}


def test_leaving_out_all_rows_is_refused(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ["-", "-", None])
    message, hint = refuse(make_task("data.label_map={'-': null}", "data.unlabeled=skip"), source)
    assert "all 3 rows are left out: 2 with the label '-', 1 without a label" in message
    assert "data.label_map" in hint


def test_source_has_its_own_columns_and_labels(make_task: MakeTask, tmp_path: Path) -> None:
    """The label map of a source replaces the common one, even if it is empty."""
    common = "data.label_map={pos: positive, neg: negative}"
    train = write(tmp_path / "train.jsonl", ["pos", "neg"])
    write(tmp_path / "eval.jsonl", [1, 0], sentence=["a", "b"])
    own = {"path": str(tmp_path / "eval.jsonl"), "columns": {"text": "sentence"}, "label_map": {1: "positive", 0: None}}
    assert labels_of(load_examples(make_task(common), train)) == ["positive", "negative"]
    loaded = load_rows(make_task(common), Source(**own))
    assert loaded.examples == [Example("1", {"text": "a"}, "positive")] and loaded.left_out == {"0": 1}
    message, hint = refuse(make_task(common), Source(path=str(tmp_path / "train.jsonl"), label_map={}))
    assert "label 'pos' is not one of positive, negative" in message and "label_map of this source" in hint


@pytest.mark.parametrize("value", [["positive", "negative"], ["positive"], "positive, negative", "positive|negative"])
def test_several_labels_are_refused(make_task: MakeTask, tmp_path: Path, value: Any) -> None:
    message, hint = refuse(make_task(), write(tmp_path / "rows.jsonl", ["positive", value]))
    assert "row 2: " in message and "a row can only have one" in message
    assert "train one model for each label" in hint


def test_unique_values_are_not_labels(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", [f"review {i}" for i in range(24)])
    message, hint = refuse(make_task(), source)
    assert "column 'label' has 24 different values in 24 rows, such as 'review 0', 'review 1'" in message
    assert "Name the column with the labels in data.columns.label" in hint


def test_rare_labels_are_refused_in_training(make_task: MakeTask, tmp_path: Path) -> None:
    """A few evaluation rows of many labels are fine."""
    labels = [f"intent {i}" for i in range(30)]
    recipe = make_task(f"task.labels={json.dumps(labels)}")
    source = write(tmp_path / "rows.csv", [*labels, *labels[:20]])
    message, hint = refuse(recipe, source, is_training=True)
    assert "has 30 different labels in 50 rows, and 10 of them occur only once" in message
    assert "data.columns.label" in hint
    assert len(load_examples(recipe, source)) == 50
    assert len(load_examples(recipe, write(tmp_path / "rows.csv", labels * 2), is_training=True)) == 60


def test_column_empty_in_every_row(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", ["positive", "negative"], text=["", " "])
    message, hint = refuse(make_task(), source)
    assert message.endswith("rows.csv: column 'text' is empty in all 2 rows.")
    assert "data.columns: {text: COLUMN}" in hint


def test_missing_column_of_an_input_is_named(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", ["positive"])
    message, hint = refuse(make_task("task.user='{sentence}'"), source)
    assert "rows.csv has no column 'sentence'; its columns are 'text', 'label'" in message
    assert hint == "Name the column in data.columns: {sentence: COLUMN}."
    message, hint = refuse(make_task("data.columns.label=gold"), source)
    assert hint == "Name the column in data.columns: {label: COLUMN}."


def test_columns_are_not_shared(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", ["positive"])
    message, _ = refuse(make_task("task.user='{a} {text}'", "data.columns.a=text"), source)
    assert message == "The inputs a and text share the column 'text'."
    message, _ = refuse(make_task("data.columns.text=label"), source)
    assert "names 'label' as the label and as a text" in message


def test_nested_columns_are_read(make_task: MakeTask, tmp_path: Path) -> None:
    rows = [{"id": 7, "data": {"text": " a "}, "annotation": {"choice": "negative"}}, {"id": 8, "data": {"text": "b"}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = make_task("data.columns={text: data.text, label: annotation.choice, id: id}", "data.unlabeled=skip")
    loaded = load_rows(recipe, Source(path=str(tmp_path / "rows.jsonl")))
    assert loaded.examples == [Example("7", {"text": "a"}, "negative")] and loaded.left_out == {"(no label)": 1}


def test_row_inputs_follow_the_recipe(make_task: MakeTask) -> None:
    recipe = make_task("task.user='{question} {context} {answer_text}'", "data.columns.context=passage")
    columns = recipe.columns_of(recipe.data.eval)
    row = {"passage": " c", "answer_text": "a", "question": "q "}
    assert list(row_inputs(recipe, columns, row).items()) == [("question", "q"), ("context", "c"), ("answer_text", "a")]
    with pytest.raises(DataError, match="column 'passage' must contain text, not None"):
        row_inputs(recipe, columns, {"question": "q", "answer_text": "a"})


def test_merged_names_are_labels_of_evaluation(make_task: MakeTask, tmp_path: Path) -> None:
    recipe = make_task(
        "task.labels=[entailment, neutral, contradiction]",
        "evaluation.merge_labels={not_entailment: [neutral, contradiction]}",
        "data.eval.label_map={0: entailment, 1: not_entailment}",
    )
    source = write(tmp_path / "rows.jsonl", ["not_entailment", 0, "neutral", 1])
    examples = load_examples(recipe, source.model_copy(update={"label_map": recipe.data.eval.label_map}))
    assert labels_of(examples) == ["not_entailment", "entailment", "neutral", "not_entailment"]
    assert labels_of(with_task_labels(recipe, examples)) == ["neutral", "entailment", "neutral", "neutral"]
    assert label_counts(recipe, examples) == {
        "entailment": 1,
        "neutral": 1,
        "contradiction": 0,
        "not_entailment": 2,
    }
    message, _ = refuse(recipe, source, is_training=True)
    assert "row 1: label 'not_entailment' is not one of entailment, neutral, contradiction" in message


def test_fingerprint_of_any_inputs_differs() -> None:
    one = [Example("1", {"text": "a b"}, "x")]
    two = [Example("1", {"a": "a", "b": "b"}, "x")]
    assert fingerprint(one) != fingerprint(two)


def test_left_out_rows_are_recorded(make_task: MakeTask, tmp_path: Path) -> None:
    """In run.json, for each source that has any."""
    train = write(tmp_path / "train.jsonl", ["positive", "-", "negative", "-", None])
    evaluation = write(tmp_path / "eval.jsonl", ["positive", "negative"], text=["other", "another"])
    recipe = make_task(
        f"data.train.path={train.path}",
        f"data.eval.path={evaluation.path}",
        "data.label_map={'-': null}",
        "data.unlabeled=skip",
    )
    record = load_splits(recipe).record(recipe)
    assert record["train"]["left_out"] == {"-": 2, "(no label)": 1} and record["train"]["rows"] == 2
    assert "left_out" not in record["eval"]


def test_labels_in_the_header_are_recognized(tmp_path: Path) -> None:
    """A short file without a header, whose first line has neither numbers nor sentences."""
    path = tmp_path / "rows.tsv"
    path.write_text("great\tpositive\nawful\tnegative\n", encoding="utf-8")
    values = {
        "task": {"labels": ["positive", "negative"], "system": None, "user": "{text}"},
        "data": {"train": {"path": str(path)}, "eval": {"path": str(path)}},
        "model": {"name": "embedded:tiny-llama-fr"},
    }
    recipe = build_recipe(values, "test")
    with pytest.raises(DataError, match="has no column 'text'") as error:
        load_examples(recipe, recipe.data.train)
    assert "header: false, names: [column1, column2]" in (error.value.hint or "")
