"""Soft labels: mappings from labels to probabilities in JSON, JSON Lines and Parquet."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_examples_labels import MakeTask, labels_of, make_task, refuse, write
from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.examples import check_all_labels_occur, fingerprint, load_examples, load_rows
from toolkit.data.group_split import split_calibration, split_dev, split_evaluation
from toolkit.data.inputs import read_labels
from toolkit.data.label_column import LabelColumn
from toolkit.data.splits import load_evaluation_rows, load_splits
from toolkit.errors import DataError
from toolkit.recipe.data_section import Source

__all__ = ["make_task"]

SOFT = {"positive": 0.7, "negative": 0.3}


def write_json(path: Path, labels: list[Any]) -> Source:
    path.write_text(json.dumps([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]), "utf-8")
    return Source(path=str(path))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_mapping_is_read_in_every_format(make_task: MakeTask, tmp_path: Path, suffix: str) -> None:
    values = [SOFT, {"negative": 0.9, "positive": 0.1}, {"negative": 1.0, "positive": None, "unsure": None}]
    path = tmp_path / f"rows{suffix}"
    source = write_json(path, values) if suffix == ".json" else write(path, values)
    examples = load_examples(make_task(), source)
    assert labels_of(examples) == ["positive", "negative", "negative"]
    # In the order of the recipe. A certain label is a single label.
    assert [example.soft_label for example in examples] == [(0.7, 0.3), (0.1, 0.9), None]


def test_rounding_does_not_break_a_tie() -> None:
    assert 0.15 + 0.3 != 0.45
    assert Example("1", {"text": "a"}, "b", soft_label=(0.15 + 0.3, 0.45, 0.1)).is_tied
    assert not Example("1", {"text": "a"}, "b", soft_label=(0.44, 0.46, 0.1)).is_tied


def test_label_below_the_most_probable_is_learned(make_task: MakeTask, tmp_path: Path) -> None:
    recipe = make_task()
    rows = load_examples(recipe, write(tmp_path / "rows.jsonl", [SOFT, SOFT]))
    check_all_labels_occur(recipe, rows, "the file")
    with pytest.raises(DataError, match="no row with label 'negative'"):
        check_all_labels_occur(recipe, [replace(row, soft_label=None) for row in rows], "the file")


def test_single_and_soft_labels_can_be_mixed(make_task: MakeTask, tmp_path: Path) -> None:
    examples = load_examples(make_task(), write(tmp_path / "rows.jsonl", ["negative", SOFT]))
    assert [(row.label, row.soft_label) for row in examples] == [("negative", None), ("positive", (0.7, 0.3))]


def test_mapped_keys_are_added(make_task: MakeTask, tmp_path: Path) -> None:
    recipe = make_task("data.label_map={1: positive, 2: positive, 0: negative, '-': null}")
    source = write(tmp_path / "rows.jsonl", [{"1": 0.25, "2.0": 0.25, "positive": 0.1, " 0 ": 0.4, "-": 0}])
    (example,) = load_examples(recipe, source)
    assert example.label == "positive" and example.soft_label == pytest.approx((0.6, 0.4))


def test_rounded_probabilities_are_normalized(make_task: MakeTask, tmp_path: Path) -> None:
    (example,) = load_examples(make_task(), write(tmp_path / "rows.jsonl", [{"positive": 0.667, "negative": 0.3339}]))
    assert example.soft_label == pytest.approx((0.667 / 1.0009, 0.3339 / 1.0009))


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ({"positive": 0.7, "negative": 0.2}, "sum to 0.9, not to 1 ({positive: 0.7, negative: 0.2})", "by their sum"),
        ({"positive": 3, "negative": 2}, "sum to 5, not to 1", "Divide the probabilities"),
        ({"positive": 0, "negative": 0}, "sum to 0, not to 1", "Divide the probabilities"),
        ({"positive": 1.2, "negative": -0.2}, "has -0.2 as the probability of 'negative'", "at least 0"),
        ({"positive": float("nan"), "negative": 1}, "has nan as the probability of 'positive'", "at least 0"),
        ({"positive": float("inf")}, "has inf as the probability", "at least 0"),
        ({"positive": 10**400}, "as the probability of 'positive'", "at least 0"),
        ({"positive": "0.7", "negative": 0.3}, "has '0.7' as the probability of 'positive'", "Write a number"),
        ({"positive": True}, "has True as the probability of 'positive'", "Write a number"),
        ({"positive": [1]}, "has [1] as the probability of 'positive'", "Write a number"),
        ({"Positive": 1}, "the key 'Positive', which is not one of positive, negative; did you mean", "map it"),
        ({"maybe": 0}, "the key 'maybe', which is not one of positive, negative", "map it to a label"),
        ({"choice": "positive"}, "the key 'choice', which is not one of", "data.columns.label, e.g. label.KEY"),
        ({"-": 0.2, "positive": 0.8}, "has the probability 0.2 for '-', which the label map leaves out", "Remove"),
        ({}, "must contain a label, not {}", "data.unlabeled: skip"),
        ({"positive": None}, "must contain a label, not {'positive': None}", "data.unlabeled: skip"),
    ],
)  # fmt: skip
def test_wrong_mappings_are_refused(
    make_task: MakeTask, tmp_path: Path, value: object, message: str, hint: str
) -> None:
    source = write(tmp_path / "rows.jsonl", ["positive", value])
    found, advice = refuse(make_task("data.label_map={'-': null}"), source)
    assert message in found and "row 2: " in found
    assert hint in advice


def test_mapping_without_values_is_unlabeled(make_task: MakeTask, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.parquet", [SOFT, {"positive": None, "negative": None}])
    loaded = load_rows(make_task("data.unlabeled=skip"), source)
    assert labels_of(loaded.examples) == ["positive"] and loaded.left_out == {"(no label)": 1}


@pytest.mark.parametrize("cell", ['{"positive": 0.7, "negative": 0.3}', "{'positive': 0.7, 'negative': 0.3}"])
def test_mapping_in_a_text_cell_is_refused(make_task: MakeTask, tmp_path: Path, cell: str) -> None:
    labels = [cell.replace("0.7", f"0.{i}") for i in range(12)]  # most of them differ
    message, hint = refuse(make_task(), write(tmp_path / "rows.csv", labels))
    assert "row 1: column 'label' has a mapping as text" in message and "JSON Lines" in hint


@pytest.mark.parametrize("value", [[0.7, 0.3], [1.0, 0], [("positive", 0.7), ("negative", 0.3)]])
def test_list_of_probabilities_is_refused(make_task: MakeTask, value: list[object]) -> None:
    """The labels of a list's numbers are not known. A Parquet file with a map gives a list of pairs."""
    column = LabelColumn.of(make_task(), make_task().data.train, is_training=True)
    with pytest.raises(DataError, match="column 'label' has probabilities as a list") as error:
        column.read_with_probabilities(value)
    assert "JSON Lines" in (error.value.hint or "")
    for labels in ([0, 1], ["positive", "negative"]):
        with pytest.raises(DataError, match="a row can only have one label"):
            column.read_with_probabilities(labels)


def test_tie_is_only_allowed_in_training(make_task: MakeTask, tmp_path: Path) -> None:
    tie = {"negative": 0.5, "positive": 0.5}
    train = write(tmp_path / "train.jsonl", ["positive", "negative", tie])
    evaluation = write(tmp_path / "eval.jsonl", ["positive", tie], text=["new 1", "new 2"])
    paths = [f"data.train.path={train.path}", f"data.eval.path={evaluation.path}"]
    with pytest.raises(DataError, match=r"eval\.jsonl: several labels are equally probable in 1 row \(row 2\)"):
        load_splits(make_task(*paths))
    with pytest.raises(DataError, match="equally probable"):
        load_evaluation_rows(make_task(*paths))
    splits = load_splits(make_task(*paths, "data.eval.limit=1"))
    assert splits.train[2].label == "positive", "the first in the order of the recipe"
    dev = make_task(*paths, "data.eval.limit=1", f"data.dev={{path: {evaluation.path}}}", "data.allow_overlap=true")
    with pytest.raises(DataError, match="equally probable"):
        load_splits(dev)


@pytest.mark.parametrize("split", [split_calibration, split_dev, split_evaluation])
def test_ties_stay_in_training(split: Any) -> None:
    rows = [nli(str(i), f"p{i // 2}", f"h{i}", "neutral") for i in range(40)]
    tied = [type(row)(row.id, row.inputs, row.label, soft_label=(0.5, 0.5, 0)) if i % 8 == 0 else row
            for i, row in enumerate(rows)]  # fmt: skip
    train, held_out = split(tied, 0.5, 1)
    assert len(held_out) == 20 and not any(row.is_tied for row in held_out)
    assert sum(row.is_tied for row in train) == 5
    with pytest.raises(DataError, match=r"none of the 5 .* 1 of 1 premises have a row with several equally"):
        split([replace(row, inputs={"premise": "p", "hypothesis": row.id}) for row in tied[:5]], 0.5, 1)


def test_merged_labels_need_single_labels(make_task: MakeTask, tmp_path: Path) -> None:
    labels = "task.labels=[positive, neutral, negative]"
    source = write(tmp_path / "eval.jsonl", [{"positive": 0.4, "neutral": 0.3, "negative": 0.3}, {"neutral": 1}])
    recipe = make_task(labels, f"data.eval.path={source.path}", "evaluation.merge_labels={rest: [neutral, negative]}")
    with pytest.raises(DataError, match=r"of 1 row \(row 1\) is a mapping .*merge_labels cannot merge"):
        load_evaluation_rows(recipe)
    message, _ = refuse(recipe, write(tmp_path / "rows.jsonl", [{"rest": 0.6, "positive": 0.4}]))
    assert "the key 'rest', which is not one of positive, neutral, negative" in message


def test_merged_labels_are_those_of_evaluated_rows(make_task: MakeTask, tmp_path: Path) -> None:
    """Soft labels in the run's own share do not matter if other rows are evaluated."""
    labels = [{"positive": 0.6, "negative": 0.4}, {"positive": 0.2, "negative": 0.8}] * 10
    source = write(tmp_path / "rows.jsonl", labels)
    other = write(tmp_path / "other.jsonl", ["rest", "positive"], text=["new 1", "new 2"])
    values = f"data={{train: {{path: {source.path}}}, eval_share: 0.2}}"
    trained = make_task(values)
    merged = make_task(values, "task.labels=[positive, negative]", "evaluation.merge_labels={rest: [negative]}")
    with pytest.raises(DataError, match="merge_labels cannot merge"):
        load_splits(merged)
    with pytest.raises(DataError, match="merge_labels cannot merge"):
        load_evaluation_rows(merged)
    data = merged.data.model_copy(update={"eval": other, "eval_share": 0.0})
    splits = load_splits(merged.model_copy(update={"data": data}), is_external=True, trained_recipe=trained)
    assert labels_of(splits.eval) == ["rest", "positive"] and len(splits.train) == 16


def test_fingerprint_includes_probabilities(make_task: MakeTask, tmp_path: Path) -> None:
    fingerprints = {
        fingerprint(load_examples(make_task(), write(tmp_path / "rows.jsonl", [label])))
        for label in ("positive", {"positive": 1}, SOFT, {"positive": 0.6, "negative": 0.4})
    }
    assert len(fingerprints) == 3


def test_labels_of_the_api_are_single(make_task: MakeTask) -> None:
    with pytest.raises(DataError, match="row 1: column 'label' must contain text or a number"):
        read_labels([SOFT], make_task())
