"""Held-back rows: whole premises, the same in every process, and on no other side."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.data.calibration_split import split_calibration
from toolkit.data.example import Example
from toolkit.data.splits import load_splits
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe

LABELS = ["entailment", "neutral", "contradiction"]
ROWS = [Example(str(i), f"p{i // 3}", f"h{i}", LABELS[i % 3]) for i in range(300)]


def test_whole_premises_are_held_back_and_no_row_is_lost() -> None:
    train, held = split_calibration(ROWS, 0.1, seed=42)
    assert len(held) == 30
    assert not {row.premise for row in train} & {row.premise for row in held}
    assert sorted([*train, *held], key=lambda row: int(row.id)) == ROWS
    assert [*train] == [row for row in ROWS if row in train], "the order of the rows stays"


def test_seed_and_rows_alone_decide() -> None:
    # Worked out in another process: Python's salted hashes must have no part in it.
    held = {row.premise for row in split_calibration(ROWS, 0.05, seed=42)[1]}
    assert held == {"p26", "p35", "p67", "p90", "p99"}
    assert held == {row.premise for row in split_calibration(ROWS, 0.05, seed=42)[1]}
    assert held != {row.premise for row in split_calibration(ROWS, 0.05, seed=43)[1]}


def test_a_share_of_none_holds_back_nothing_and_a_small_one_a_premise() -> None:
    assert split_calibration(ROWS, 0.0, seed=1) == (ROWS, [])
    assert len(split_calibration(ROWS, 0.0001, seed=1)[1]) == 3


def test_rows_of_one_premise_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="would hold back all 3 training rows"):
        split_calibration(ROWS[:3], 0.1, seed=1)


def test_held_back_premises_stand_neither_in_train_nor_in_eval(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def source(name: str, rows: list[Example]) -> str:
        path = tmp_path / f"{name}.jsonl"
        values = [{"premise": r.premise, "hypothesis": r.hypothesis, "label": r.label} for r in rows]
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        return f"data.{name}={{path: {path}}}"

    # Every second premise of the training rows is evaluated too, with other hypotheses.
    evaluation = [Example(str(i), f"p{i}", f"other {i}", "neutral") for i in range(0, 100, 2)]
    sources = [source("train", ROWS), source("eval", evaluation), "data.columns.id=null", "evaluation.slice_by=[]"]
    recipe = make_recipe(*sources, "data.calibration_share=0.2")
    splits = load_splits(recipe)
    held = {row.premise for row in splits.calibration_set}
    fitted_on = {row.premise for row in splits.unseen_calibration_set}
    assert not held & {row.premise for row in splits.train}
    assert fitted_on and not fitted_on & {row.premise for row in splits.eval}
    assert fitted_on < held, "the test means something only where some held-back premises are evaluated"
    record = splits.record(recipe)
    assert (record["train"]["rows"], record["calibration"]["rows"]) == (240, 60)
    assert load_splits(make_recipe(*sources)).record(recipe).keys() == {"train", "eval", "overlap"}


def test_a_label_that_is_held_back_altogether_is_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": LABELS[i]} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = make_recipe(
        f"data.train={{path: {path}}}", "data.columns.id=null", "data.calibration_share=0.3", "evaluation.slice_by=[]"
    )
    with pytest.raises(DataError, match=r"without the share 0\.3 that is held back has no row of label"):
        load_splits(recipe.model_copy(update={"data": recipe.data.model_copy(update={"allow_overlap": True})}))
