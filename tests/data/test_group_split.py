"""The calibration set: all rows of a premise, the same in every process, and disjoint from training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.group_split import split_calibration
from toolkit.data.splits import load_splits
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe

LABELS = ["entailment", "neutral", "contradiction"]
ROWS = [nli(str(i), f"p{i // 3}", f"h{i}", LABELS[i % 3]) for i in range(300)]


def test_rows_of_a_premise_stay_together() -> None:
    train, calibration = split_calibration(ROWS, 0.1, seed=42)
    assert len(calibration) == 30
    assert not {row.inputs["premise"] for row in train} & {row.inputs["premise"] for row in calibration}
    assert sorted([*train, *calibration], key=lambda row: int(row.id)) == ROWS
    assert [*train] == [row for row in ROWS if row in train], "the order of the rows is kept"


def test_split_depends_only_on_seed_and_rows() -> None:
    # Computed in another process, whose string hashes had another salt.
    premises = {row.inputs["premise"] for row in split_calibration(ROWS, 0.05, seed=42)[1]}
    assert premises == {"p26", "p35", "p67", "p90", "p99"}
    assert premises == {row.inputs["premise"] for row in split_calibration(ROWS, 0.05, seed=42)[1]}
    assert premises != {row.inputs["premise"] for row in split_calibration(ROWS, 0.05, seed=43)[1]}


def test_smallest_share_holds_out_one_premise() -> None:
    assert split_calibration(ROWS, 0.0, seed=1) == (ROWS, [])
    assert len(split_calibration(ROWS, 0.0001, seed=1)[1]) == 3


def test_single_premise_cannot_be_split() -> None:
    with pytest.raises(DataError, match="would hold out all 3 training rows"):
        split_calibration(ROWS[:3], 0.1, seed=1)


def test_calibration_premises_are_in_no_other_split(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    def write_source(name: str, rows: list[Example]) -> str:
        path = tmp_path / f"{name}.jsonl"
        values = [{**row.inputs, "label": row.label} for row in rows]
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        return f"data.{name}={{path: {path}}}"

    # The evaluation rows have every second premise of the training rows, with other hypotheses.
    evaluation = [nli(str(i), f"p{i}", f"other {i}", "neutral") for i in range(0, 100, 2)]
    sources = [
        write_source("train", ROWS),
        write_source("eval", evaluation),
        "data.columns.id=null",
        "evaluation.slice_by=[]",
    ]
    recipe = make_recipe(*sources, "data.calibration_share=0.2")
    splits = load_splits(recipe)
    premises = {row.inputs["premise"] for row in splits.calibration_set}
    assert premises and not premises & {row.inputs["premise"] for row in splits.train}
    record = splits.record(recipe)
    assert (record["train"]["rows"], record["calibration"]["rows"]) == (240, 60)
    assert load_splits(make_recipe(*sources)).record(recipe).keys() == {"train", "eval", "overlap"}


def test_label_that_is_entirely_held_out_is_rejected(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": LABELS[i]} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = make_recipe(
        f"data.train={{path: {path}}}", "data.columns.id=null", "data.calibration_share=0.3", "evaluation.slice_by=[]"
    )
    with pytest.raises(DataError, match=r"without the held-out share of 0\.3 has no row with label"):
        load_splits(recipe.model_copy(update={"data": recipe.data.model_copy(update={"allow_overlap": True})}))
