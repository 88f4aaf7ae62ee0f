"""Few-shot examples: balanced by label, reproducible, nested, and never from the evaluation rows."""

from collections import Counter

import pytest

from tests.nli import nli
from toolkit.data.example import Example
from toolkit.data.few_shot import check_shots, draw_shots
from toolkit.errors import DataError, RunError

LABELS = ["entailment", "neutral", "contradiction"]
TRAIN = [nli(str(i), f"p{i}", f"h{i}", LABELS[i % 3]) for i in range(60)]


def ids(count: int, seed: int = 1, evaluation: list[Example] | None = None) -> list[str]:
    return [shot.id for shot in draw_shots(TRAIN, evaluation or [], LABELS, count, seed)]


@pytest.mark.parametrize("count", [1, 3, 6, 7, 8, 60])
def test_labels_are_balanced(count: int) -> None:
    shots = draw_shots(TRAIN, [], LABELS, count, 1)
    counts = Counter(shot.label for shot in shots)
    assert len({shot.id for shot in shots}) == count
    assert max(counts.values()) - min(counts[label] for label in LABELS) <= 1


def test_shots_are_reproducible_and_nested() -> None:
    assert ids(9) == ids(9) != ids(9, seed=2)
    assert ids(9)[:4] == ids(4)


def test_last_label_varies() -> None:
    assert len({draw_shots(TRAIN, [], LABELS, 3, seed)[-1].label for seed in range(20)}) == 3


def test_evaluated_pairs_are_never_shown() -> None:
    shown = TRAIN[:30]
    renamed = [nli(f"eval-{row.id}", row.inputs["premise"], row.inputs["hypothesis"], "neutral") for row in shown]
    assert not {row.id for row in shown} & set(ids(30, evaluation=renamed))


def test_label_with_too_few_rows_is_named() -> None:
    with pytest.raises(DataError, match="needs more than the 20 training rows with label"):
        ids(61)


def test_only_the_base_model_takes_shots() -> None:
    check_shots("base", 3)
    check_shots("adapter", 0)
    for model in ("adapter", "merged", "x.gguf"):
        with pytest.raises(RunError, match='shots=3 is for model="base"'):
            check_shots(model, 3)
