"""The calibration set: all rows of a premise, the same in every process, and disjoint from training."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.group_split import draw_training_rows, split_calibration
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


def test_smaller_draws_are_subsets_of_larger() -> None:
    draws = [draw_training_rows(ROWS, count, seed=1) for count in (30, 31, 60, 300)]
    assert [len(drawn) for drawn in draws] == [30, 30, 60, 300], "whole groups of three rows"
    assert all(set(small) <= set(large) for small, large in pairwise([{row.id for row in drawn} for drawn in draws]))
    assert draws[0] == [row for row in ROWS if row in draws[0]], "the order of the rows is kept"
    assert draws[0] != draw_training_rows(ROWS, 30, seed=2)
    assert draw_training_rows(ROWS, None, seed=1) == ROWS


@pytest.mark.parametrize(
    ("count", "reason"), [(301, "only 300 training rows"), (2, "the first group drawn has 3 rows")]
)
def test_impossible_draws_are_rejected(count: int, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        draw_training_rows(ROWS, count, seed=1)


def test_evaluation_redraws_the_same_training_rows(make_recipe: Callable[..., Recipe]) -> None:
    """An evaluation with another seed or data size still knows which rows the run was trained on."""
    recipe = make_recipe("data.train_rows=24", "data.calibration_share=0.2", "seed=5")
    splits = load_splits(recipe)
    assert len(splits.train) + len(splits.calibration_set) in (23, 24)
    changed = make_recipe("data.train_rows=12", "data.calibration_share=0.2", "seed=6")
    again = load_splits(changed, trained_recipe=recipe)
    assert {row.id for row in again.train + again.calibration_set} == {
        row.id for row in splits.train + splits.calibration_set
    }


def test_split_seed_keeps_held_out_rows(make_recipe: Callable[..., Recipe]) -> None:
    """All seeds of a study must be evaluated on the same rows."""
    shared = ("data.eval.split=train", "data.eval.limit=null", "data.eval_share=0.2", "data.train.limit=60")
    for share in (shared, ("data.dev_share=0.2",)):
        held_out = [
            [row.id for row in (splits.eval if share == shared else splits.dev)]
            for seed in (1, 2)
            for splits in (load_splits(make_recipe(f"seed={seed}", "data.split_seed=7", *share)),)
        ]
        assert held_out[0] == held_out[1] != []
        changed = load_splits(make_recipe("seed=2", *share))
        assert [row.id for row in (changed.eval if share == shared else changed.dev)] != held_out[0]
