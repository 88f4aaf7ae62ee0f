"""Few-shot examples for prompts, drawn from the training rows and balanced by label."""

import random
from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import DataError, RunError


def check_shots(model: str, shots: int) -> None:
    """Check that few-shot examples are only used with the base model.

    The other models were trained on prompts without examples.

    Raises:
        RunError: If `shots` is above 0 for another model.
    """
    if shots and model != "base":
        raise RunError(
            f'shots={shots} is for model="base", not for {model!r}, which was trained to answer without examples.',
            hint='Add model="base" (which encoder runs do not have), or leave out shots.',
        )


def draw_shots(
    train: Sequence[Example], evaluation: Sequence[Example], labels: Sequence[str], count: int, seed: int
) -> list[Example]:
    """Draw few-shot examples, in the order in which the prompt shows them.

    Labels are balanced: their counts differ by at most 1. Each round contains every label once, in random order, so
    that the last example does not always have the same label. With the same seed, fewer shots are a prefix of more
    shots. The texts of evaluation rows are never drawn.

    Raises:
        DataError: If a label has too few training rows.
    """
    # Compared by text, because ids differ between files.
    evaluated_texts = {row.texts for row in evaluation}
    generator = random.Random(seed)
    rows = [row for row in train if row.texts not in evaluated_texts and not row.is_tied]
    generator.shuffle(rows)
    rows_by_label = {label: [row for row in rows if row.label == label] for label in labels}
    # The draws do not depend on `count`, which only decides where they stop. This makes fewer shots a prefix of more.
    shots: list[Example] = []
    while len(shots) < count:
        for label in generator.sample(list(labels), len(labels)):
            if len(shots) < count and not rows_by_label[label]:
                drawn = sum(shot.label == label for shot in shots)
                raise DataError(
                    f"shots={count} needs more than the {drawn} training rows with label {label!r}.",
                    hint="Give fewer shots, or raise data.train.limit.",
                )
            if len(shots) < count:
                shots.append(rows_by_label[label].pop())
    return shots
