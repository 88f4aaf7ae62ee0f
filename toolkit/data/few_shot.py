"""Solved examples for a prompt: drawn from the training rows, balanced by label."""

import random
from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import DataError, RunError


def check_shots(model: str, shots: int) -> None:
    """Shots are for the base model: the others were trained on prompts without any.

    Raises:
        RunError: `shots` were asked for with another model.
    """
    if shots and model != "base":
        raise RunError(
            f'shots={shots} is for model="base", not for {model!r}, which was trained to answer without examples.',
            hint='Add model="base" (which encoder runs do not have), or leave out shots.',
        )


def draw_shots(
    train: Sequence[Example], evaluation: Sequence[Example], labels: Sequence[str], count: int, seed: int
) -> list[Example]:
    """Draw examples that stand before a question, in the order in which they are shown.

    Balanced as far as `count` allows: of any two labels one is shown at most once more than the other. Each round has
    every label once, in an order of its own, so that no label is always the last one seen. Fewer shots of the same
    seed are the beginning of more. Pairs that are evaluated are never shown.

    Raises:
        DataError: a label has too few training rows.
    """
    evaluated_pairs = {(row.premise, row.hypothesis) for row in evaluation}
    generator = random.Random(seed)
    rows = [row for row in train if (row.premise, row.hypothesis) not in evaluated_pairs]
    generator.shuffle(rows)
    rows_by_label = {label: [row for row in rows if row.label == label] for label in labels}
    shots: list[Example] = []
    while len(shots) < count:
        for label in generator.sample(list(labels), len(labels)):
            if len(shots) < count and not rows_by_label[label]:
                drawn = sum(shot.label == label for shot in shots)
                raise DataError(
                    f"shots={count} needs more than the {drawn} training rows of label {label!r}.",
                    hint="Give fewer shots, or raise data.train.limit.",
                )
            if len(shots) < count:
                shots.append(rows_by_label[label].pop())
    return shots
