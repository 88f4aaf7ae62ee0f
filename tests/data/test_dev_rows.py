"""Dev rows: their own source or a share of the training rows, disjoint from all others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nli import nli
from toolkit.data.examples import fingerprint, label_counts
from toolkit.data.group_split import split_calibration, split_evaluation
from toolkit.data.splits import load_splits
from toolkit.errors import DataError, RecipeError
from toolkit.recipe.data_section import Source
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
LABELS = ["entailment", "neutral", "contradiction"]


def rows(first: int, last: int, **changes: Any) -> list[dict[str, Any]]:
    """Return rows of which each three share a premise."""
    return [
        {"premise": f"p{i // 3}", "hypothesis": f"h{i}", "label": LABELS[i % 3], **changes} for i in range(first, last)
    ]


@pytest.fixture
def files_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> MakeRecipe:
    """A function that writes files named by its keywords and builds a recipe with them and with overrides."""

    def make(*overrides: str, **files: list[dict[str, Any]]) -> Recipe:
        sources = []
        for name, values in ({"train": rows(0, 120), "eval": rows(300, 330)} | files).items():
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
            sources.append(f"data.{name}={{path: {path}}}")
        return make_recipe(*sources, "data.columns.id=null", "evaluation.slice_by=[]", *overrides)

    return make


def ids(splits: Any, *names: str) -> list[set[str]]:
    return [{row.id for row in getattr(splits, name)} for name in names]


def test_recipe_without_dev_rows_has_none(files_recipe: MakeRecipe) -> None:
    recipe = files_recipe()
    splits = load_splits(recipe)
    assert splits.dev == [] and splits.dev_overlap == {} and "dev" not in splits.record(recipe)


def test_dev_source_is_read_and_recorded(files_recipe: MakeRecipe) -> None:
    dev = [*rows(200, 206), {"premise": "p1", "hypothesis": "unseen", "label": "-"}]
    recipe = files_recipe("data.label_map={'-': null}", dev=dev)
    splits = load_splits(recipe)
    assert [row.id for row in splits.dev] == list("123456") and len(splits.train) == 120
    record = splits.record(recipe)
    assert list(record) == ["train", "dev", "eval", "overlap"]
    assert record["dev"]["source"].endswith("dev.jsonl") and record["dev"]["left_out"] == {"-": 1}
    assert record["dev"]["rows"] == 6 and record["dev"]["fingerprint"] == fingerprint(splits.dev)
    assert record["dev"]["labels"] == label_counts(recipe, splits.dev)
    none = {"premises": 0, "hypotheses": 0, "pairs": 0}
    assert record["dev"]["overlap"] == {"train": none, "eval": none}


def test_dev_rows_need_no_slices_or_all_labels(files_recipe: MakeRecipe) -> None:
    options = ("evaluation.slice_by=[genre]", "data.dev.limit=2")
    recipe = files_recipe(*options, dev=rows(201, 206), eval=rows(300, 330, genre="fiction"))
    assert [row.label for row in load_splits(recipe).dev] == ["entailment", "neutral"]


def test_dev_rows_have_the_labels_of_the_task(files_recipe: MakeRecipe) -> None:
    merged = rows(300, 303, label="rest")
    options = ["evaluation.merge_labels={rest: [neutral, contradiction]}"]
    assert len(load_splits(files_recipe(*options, dev=rows(200, 206), eval=merged)).dev) == 6
    with pytest.raises(DataError, match="label 'rest' is not one of entailment, neutral, contradiction"):
        load_splits(files_recipe(*options, dev=merged))


def test_dev_share_holds_out_whole_groups(files_recipe: MakeRecipe) -> None:
    splits = load_splits(files_recipe("data.dev_share=0.1"))
    assert (len(splits.train), len(splits.dev)) == (108, 12)
    assert not {row.group for row in splits.train} & {row.group for row in splits.dev}
    record = splits.record(files_recipe("data.dev_share=0.1"))
    assert record["dev"]["source"] == record["train"]["source"] and record["dev"]["overlap"]["train"]["pairs"] == 0


def test_dev_share_depends_only_on_the_seed(files_recipe: MakeRecipe) -> None:
    first, again, other = (
        {row.group for row in load_splits(files_recipe("data.dev_share=0.1", f"seed={seed}")).dev} for seed in (1, 1, 2)
    )
    assert first == again != other
    # Computed in another process, whose string hashes had another salt.
    assert first == {"p16", "p22", "p5", "p6"}


def test_shares_are_taken_in_turn(make_recipe: MakeRecipe, files_recipe: MakeRecipe) -> None:
    """First data.eval_share, then data.dev_share, then data.calibration_share."""
    files_recipe()
    path = files_recipe().data.train.path
    recipe = make_recipe(
        f"data={{train: {{path: {path}}}, eval_share: 0.2, dev_share: 0.25, calibration_share: 0.5}}",
        "evaluation.slice_by=[]",
    )
    splits = load_splits(recipe)
    everything = [
        nli(str(i + 1), row["premise"], row["hypothesis"], row["label"]) for i, row in enumerate(rows(0, 120))
    ]
    rest, evaluation = split_evaluation(everything, 0.2, recipe.seed)
    assert splits.eval == evaluation
    assert (len(splits.eval), len(splits.dev), len(splits.calibration_set), len(splits.train)) == (24, 24, 36, 36)
    without_dev = [row for row in rest if row not in splits.dev]
    assert (splits.train, splits.calibration_set) == split_calibration(without_dev, 0.5, recipe.seed)


def test_dev_rows_in_training_are_refused(files_recipe: MakeRecipe) -> None:
    dev = rows(118, 122)
    with pytest.raises(DataError, match=r"2 pairs occur in both data\.train and data\.dev, so validation") as raised:
        load_splits(files_recipe(dev=dev))
    assert "row 1 of data.dev is 119 of data.train, 2 of data.dev is 120" in str(raised.value)
    assert "data.allow_overlap" in (raised.value.hint or "")
    splits = load_splits(files_recipe("data.allow_overlap=true", dev=dev))
    assert splits.dev_overlap["train"].record() == {"premises": 1, "hypotheses": 2, "pairs": 2}


def test_dev_rows_in_evaluation_are_refused(files_recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match=r"3 pairs occur in both data\.dev and data\.eval, so evaluation rows would"):
        load_splits(files_recipe(dev=rows(297, 303)))
    # A share of data.train is not among the training rows, but must not be evaluated on either.
    evaluation = rows(300, 330) + rows(0, 120)
    with pytest.raises(DataError, match=r"occur in both data\.train and data\.eval"):
        load_splits(files_recipe("data.dev_share=0.1", eval=evaluation))
    share = load_splits(files_recipe("data.dev_share=0.1")).dev
    values = [{**row.inputs, "label": row.label} for row in share]
    with pytest.raises(DataError, match=r"12 pairs occur in both data\.dev_share and data\.eval"):
        load_splits(files_recipe("data.dev_share=0.1", eval=values))


def test_share_must_leave_rows_of_each_label(files_recipe: MakeRecipe) -> None:
    train = [{"premise": f"p{i}", "hypothesis": "h", "label": LABELS[i]} for i in range(3)]
    with pytest.raises(DataError, match=r"without the dev share of 0\.3 has no row with label"):
        load_splits(files_recipe("data.dev_share=0.3", train=train))


@pytest.mark.parametrize("dev", [["data.dev_share=0.1"], []])
def test_dev_rows_can_be_evaluated(files_recipe: MakeRecipe, tmp_path: Path, dev: list[str]) -> None:
    """Other evaluation rows change neither the training rows nor the dev rows, even if they are the dev rows."""
    trained = files_recipe(*dev) if dev else files_recipe(dev=rows(200, 212))
    before = load_splits(trained)
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({**row.inputs, "label": row.label}) + "\n" for row in before.dev), "utf-8")
    data = trained.data.model_copy(update={"eval": Source(path=str(path))})
    changes: dict[str, Any] = {"data": data}
    if dev:  # what would change which rows are the share does not
        data = data.model_copy(update={"train": data.train.model_copy(update={"limit": 60})})
        changes = {"data": data, "seed": 5}
    other = trained.model_copy(update=changes)
    splits = load_splits(other, is_external=True, trained_recipe=trained)
    assert (splits.train, splits.dev) == (before.train, before.dev) and len(splits.dev) == 12
    assert [row.texts for row in splits.eval] == [row.texts for row in splits.dev]
    assert splits.dev_overlap == {}


def test_training_rows_cannot_be_evaluated(files_recipe: MakeRecipe) -> None:
    trained = files_recipe("data.dev_share=0.1")
    data = trained.data.model_copy(update={"eval": trained.data.train})
    with pytest.raises(DataError, match="108 pairs occur in both"):
        load_splits(trained.model_copy(update={"data": data}), trained_recipe=trained)


def test_two_dev_sources_are_refused(files_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"dev_share: has no effect next to data\.dev"):
        files_recipe("data.dev_share=0.1", dev=rows(200, 206))
