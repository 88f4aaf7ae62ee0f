"""Splits: overlap between training and evaluation is counted, and shared pairs are rejected."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.data.test_examples import write_rows
from toolkit.data.example import Example
from toolkit.data.examples import fingerprint
from toolkit.data.splits import find_overlap, load_splits
from toolkit.errors import DataError
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
    with pytest.raises(DataError, match=r"20 pairs occur in both data\.train and data\.eval"):
        load_splits(make_recipe(*overrides))
    assert load_splits(make_recipe(*overrides, "data.allow_overlap=true")).overlap.pairs == 20


def test_overlap_counts_distinct_texts() -> None:
    def rows(*pairs: str) -> list[Example]:
        return [Example(str(i), pair[0], pair[1], "neutral") for i, pair in enumerate(pairs)]

    overlap = find_overlap(rows("ax", "by", "cz"), rows("ay", "by", "ay", "dx"))
    assert (overlap.premises, overlap.hypotheses, overlap.pairs) == (2, 2, 1)


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
    assert splits.eval == [Example("1", "a", "b", "neutral")]
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
    assert record["overlap"] == asdict(splits.overlap) and record["overlap"]["pairs"] == 0
