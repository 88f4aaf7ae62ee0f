"""Near-duplicates: texts that differ only in case, punctuation and spaces are the same, other texts are not."""

import pytest

from tests.nli import nli
from toolkit.data.duplicates import NearDuplicates, find_near_duplicates, normalize
from toolkit.data.example import Example


def row(premise: str, label: str = "neutral", hypothesis: str = "Il dort.") -> Example:
    return nli("id", premise, hypothesis, label)


@pytest.mark.parametrize(
    ("text", "duplicate"),
    [("Il dort.", " il  DORT !"), ("l'été", "L\u2019ÉTÉ"), ("e\u0301te\u0301", "été"), ("ﬁn", "fin")],
)
def test_case_punctuation_and_spaces_are_ignored(text: str, duplicate: str) -> None:
    assert normalize(text) == normalize(duplicate)


def test_accents_words_and_order_matter() -> None:
    assert len({normalize(text) for text in ("il a mange", "il a mangé", "mangé il a", "il a mangé 2")}) == 4


def test_repeats_conflicts_and_leaks_are_counted() -> None:
    train = [row("Un chat."), row("un chat"), row("Un chien."), row("UN CHIEN", "entailment"), row("Un chien?")]
    evaluation = [row("un  chat !"), row("Un lapin."), row("Un chat.", hypothesis="Il mange.")]
    assert find_near_duplicates(train, evaluation) == NearDuplicates(repeats=3, conflicts=3, leaked=1)
    assert find_near_duplicates([], []) == NearDuplicates(0, 0, 0)
    assert find_near_duplicates(train, [], evaluation) == NearDuplicates(3, 3, 0, leaked_dev=1, evaluated_dev=0)
    assert find_near_duplicates([], evaluation[:1], [row("UN CHAT"), row("Un lapin.")]).evaluated_dev == 1
