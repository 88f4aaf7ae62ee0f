"""The embedded dataset as users load it: fields, balance, grouped premises and separate splits."""

from collections import Counter
from itertools import combinations

import pytest

from toolkit.embedded.nli_fr import SPLITS, load_split
from toolkit.errors import DataError

LABELS = {"entailment", "neutral", "contradiction"}
SIZES = {"train": 3000, "dev": 600, "test": 600, "test_lexical": 600}


def test_there_are_four_splits() -> None:
    assert set(SPLITS) == set(SIZES)


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_five_fields_of_text(split: str) -> None:
    rows = load_split(split)
    assert len(rows) == SIZES[split]
    for row in rows:
        assert list(row) == ["id", "premise", "hypothesis", "label", "phenomenon"]
        assert all(isinstance(value, str) and value for value in row.values())
    assert [row["id"] for row in rows] == [
        f"nli-fr-{split.replace('_', '-')}-{number:04d}" for number in range(1, len(rows) + 1)
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split: str) -> None:
    assert Counter(row["label"] for row in load_split(split)) == dict.fromkeys(LABELS, SIZES[split] // 3)


@pytest.mark.parametrize("split", SPLITS)
def test_three_rows_share_a_premise(split: str) -> None:
    rows = load_split(split)
    triples = [rows[start : start + 3] for start in range(0, len(rows), 3)]
    assert all(len({row["premise"] for row in triple}) == 1 for triple in triples)
    assert all({row["label"] for row in triple} == LABELS for triple in triples)
    assert len({triple[0]["premise"] for triple in triples}) == len(triples)


@pytest.mark.parametrize(("first", "second"), combinations(SPLITS, 2))
def test_no_premise_occurs_in_two_splits(first: str, second: str) -> None:
    premises = [{row["premise"] for row in load_split(split)} for split in (first, second)]
    assert premises[0].isdisjoint(premises[1])


def test_callers_get_their_own_rows() -> None:
    load_split("dev")[0]["label"] = "spoiled"
    assert load_split("dev")[0]["label"] in LABELS


@pytest.mark.parametrize("name", ["validation", "", "../weights/pretrain", "Train"])
def test_an_unknown_split_is_refused(name: str) -> None:
    with pytest.raises(DataError) as error:
        load_split(name)
    assert repr(name) in str(error.value)
    assert all(split in (error.value.hint or "") for split in SPLITS)
