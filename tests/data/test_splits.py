"""Splits: overlap between training and evaluation is counted, and shared pairs are rejected."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.test_examples import write_rows
from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.data.splits import find_overlap, load_evaluation_rows, load_splits
from toolkit.errors import DataError
from toolkit.recipe.data_section import Source
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


def test_shared_pairs_are_rejected_unless_allowed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    overrides = [
        f"data.train={{path: {path}}}",
        f"data.eval={{path: {path}}}",
        "data.columns.id=null",
        "evaluation.slice_by=[]",
    ]
    with pytest.raises(DataError, match=r"20 pairs occur in both data\.train and data\.eval") as raised:
        load_splits(make_recipe(*overrides))
    assert "row 1 of data.eval is 1 of data.train, 2 of data.eval is 2" in str(raised.value)
    assert load_splits(make_recipe(*overrides, "data.allow_overlap=true")).overlap.rows == 20


def test_overlap_counts_distinct_texts() -> None:
    def rows(*pairs: str) -> list[Example]:
        return [nli(str(i), pair[0], pair[1], "neutral") for i, pair in enumerate(pairs)]

    overlap = find_overlap(rows("ax", "by", "cz"), rows("ay", "by", "ay", "dx"))
    assert (overlap.inputs, overlap.rows) == ({"premise": 2, "hypothesis": 2}, 1)


def test_training_rows_keep_their_columns(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """If the evaluation rows have other columns, the training rows are still read with the columns of the run."""
    (tmp_path / "other.tsv").write_text("texte\tsuite\tclasse\na\tb\t0\n", encoding="utf-8")
    trained = make_recipe()
    other = make_recipe(
        f"data.eval={{path: {tmp_path / 'other.tsv'}}}",
        "data.columns={premise: texte, hypothesis: suite, label: classe}",
        "data.label_map={0: neutral}",
    )
    splits = load_splits(other, is_external=True, trained_recipe=trained)
    assert splits.eval == [nli("1", "a", "b", "neutral")]
    assert splits.train == load_splits(trained).train and len(splits.train) == 48
    with pytest.raises(DataError, match="has no column 'texte'"):
        load_splits(other, is_external=True)


def test_record_has_counts_and_fingerprints(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    splits = load_splits(recipe)
    record = splits.record(recipe)
    assert record["train"] == {
        "source": "embedded:nli-fr:train",
        "rows": 48,
        "labels": {"entailment": 16, "neutral": 16, "contradiction": 16},
        "fingerprint": fingerprint(splits.train),
    }
    assert (record["eval"]["rows"], record["eval"]["fingerprint"]) == (24, fingerprint(splits.eval))
    assert record["overlap"] == splits.overlap.record() and record["overlap"]["pairs"] == 0


def share_recipe(make_recipe: MakeRecipe, path: Path, *overrides: str) -> Recipe:
    """Return a recipe that evaluates on a quarter of the questions in a file of 40 questions with 3 rows each."""
    rows = [
        {"question": f"q{i // 3}", "context": f"c{i % 7}", "label": ("good", "bad")[i % 2], "lang": "fr"}
        for i in range(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return make_recipe(
        "task.labels=[good, bad]", "task.user='{question} {context}'",
        f"data={{train: {{path: {path}}}, eval_share: 0.25}}", "evaluation.slice_by=[lang]", *overrides,
    )  # fmt: skip


def test_eval_share_holds_out_whole_groups(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = share_recipe(make_recipe, tmp_path / "rows.jsonl")
    splits = load_splits(recipe)
    assert (len(splits.train), len(splits.eval)) == (90, 30)
    assert not {row.group for row in splits.train} & {row.group for row in splits.eval}
    assert sorted(int(row.id) for row in [*splits.train, *splits.eval]) == list(range(1, 121))
    assert splits.overlap.record() == {"question": 0, "context": 7, "rows": 0}
    assert str(splits.overlap) == "0 question texts, 7 context texts, 0 rows"
    assert load_evaluation_rows(recipe) == splits.eval and splits.eval[0].slices == {"lang": "fr"}


def test_eval_share_depends_on_the_seed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first, again, other = (
        {row.group for row in load_evaluation_rows(share_recipe(make_recipe, path, f"seed={seed}"))}
        for seed in (1, 1, 2)
    )
    assert first == again != other
    # Computed in another process, whose string hashes had another salt.
    assert first == {"q10", "q14", "q17", "q27", "q29", "q30", "q33", "q35", "q36", "q8"}


def test_limits_apply_before_and_after_sharing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    recipe = share_recipe(make_recipe, path)
    whole = load_splits(recipe)
    data = recipe.data.model_copy(update={"eval": recipe.data.eval.model_copy(update={"limit": 7})})
    splits = load_splits(recipe.model_copy(update={"data": data}))
    assert splits.eval == whole.eval[:7] and splits.train == whole.train
    splits = load_splits(share_recipe(make_recipe, path, "data.train.limit=60"))
    assert max(int(row.id) for row in [*splits.train, *splits.eval]) == 60 and len(splits.eval) == 15


def test_eval_share_of_one_group_is_rejected(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = share_recipe(make_recipe, tmp_path / "rows.jsonl", "data.train.limit=3")
    with pytest.raises(DataError, match=r"eval_share 0\.25 would hold out none of the 3 .* same question .* only 1"):
        load_splits(recipe)


def test_other_evaluation_rows_keep_the_trained_share(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The training rows of a run with data.eval_share stay without its evaluation rows."""
    trained = share_recipe(make_recipe, tmp_path / "rows.jsonl")
    (tmp_path / "other.jsonl").write_text(
        json.dumps({"question": "new", "context": "c1", "label": "bad"}) + "\n", encoding="utf-8"
    )
    data = trained.data.model_copy(update={"eval": Source(path=str(tmp_path / "other.jsonl")), "eval_share": 0.0})
    other = trained.model_copy(update={"data": data, "seed": 7})
    splits = load_splits(other, is_external=True, trained_recipe=trained)
    assert splits.train == load_splits(trained).train
    assert [row.inputs for row in splits.eval] == [{"question": "new", "context": "c1"}]
