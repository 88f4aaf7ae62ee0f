"""Splits of rows by whole groups: evaluation and dev shares of data.train, the calibration set, drawn training rows.

Rows with the same text in the first input, e.g. the same premise, are a group. They are not independent.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from toolkit.data.example import Example
from toolkit.errors import DataError
from toolkit.recipe.inputs import name_texts


def split_calibration(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off a calibration set such that no group is in both parts.

    Args:
        rows: All training rows.
        share: The share of the rows to hold out, from 0 to below 1. Groups are drawn until it is reached, so the
            calibration set exceeds it by less than the rows of one group.
        seed: The seed of the draw. The result depends only on the seed, the groups and their order.

    Returns:
        The rows to train on and the calibration set, each in the order of `rows`.

    Raises:
        DataError: If no rows would be left to train on.
    """
    # Changing this seed would change the calibration set of every recipe.
    return _split_groups(rows, share, f"hold back {seed}", "data.calibration_share")


def split_evaluation(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off the evaluation rows, as `split_calibration` does for the calibration set.

    A group that would exceed the share by more than what it lacks without the group is passed over.
    """
    return _split_groups(rows, share, f"evaluation share {seed}", "data.eval_share", passes_over=True)


def split_dev(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off the rows to validate on, as `split_evaluation` does for the evaluation rows."""
    return _split_groups(rows, share, f"dev share {seed}", "data.dev_share", passes_over=True)


def draw_training_rows(rows: Sequence[Example], count: int | None, seed: int) -> list[Example]:
    """Draw whole groups at random, for a point of a learning curve.

    Args:
        rows: All training rows.
        count: The largest number of rows to draw; None for all rows.
        seed: The seed of the draw. With the same seed, a smaller count draws a subset.

    Returns:
        The drawn rows in the order of `rows`. They are fewer than `count` if the next group would exceed it.

    Raises:
        DataError: If there are fewer rows than `count`, or the first group is already larger.
    """
    if count is None:
        return list(rows)
    sizes = Counter(row.group for row in rows)
    groups = list(sizes)
    random.Random(f"training rows {seed}").shuffle(groups)
    totals = accumulate(sizes[group] for group in groups)
    drawn = {group for group, total in zip(groups, totals, strict=True) if total <= count}
    if count > len(rows):
        raise DataError(
            f"data.train_rows is {count:,}, but only {len(rows):,} training rows are available.",
            hint="Lower data.train_rows, or set it to null to train on all rows.",
        )
    if not drawn:
        raise DataError(
            f"data.train_rows is {count:,}, but rows with the same {next(iter(rows[0].inputs))} are drawn "
            f"together, and the first group drawn has {sizes[groups[0]]:,} rows.",
            hint="Raise data.train_rows.",
        )
    return [row for row in rows if row.group in drawn]


def _split_groups(
    rows: Sequence[Example], share: float, seed: str, key: str, *, passes_over: bool = False
) -> tuple[list[Example], list[Example]]:
    if not share:
        return list(rows), []
    sizes = Counter(row.group for row in rows)
    groups = list(sizes)  # in order of first occurrence: a set of strings would be ordered differently in each process
    random.Random(seed).shuffle(groups)  # hashes a string seed with SHA-512, so the draw is the same on every machine
    # A prediction cannot be compared with tied labels, so tied rows and their groups stay in the training rows.
    held_out, tied = set[str](), {row.group for row in rows if row.is_tied}
    count = 0
    wanted = share * len(rows)
    for group in groups:
        if count >= wanted:
            break
        if group in tied or (passes_over and count + sizes[group] - wanted > wanted - count):
            continue
        held_out.add(group)
        count += sizes[group]
    if count in (0, len(rows)):
        name = next(iter(rows[0].inputs))
        names = name_texts(name)
        reason = f"there are only {len(groups)} {names}"
        if tied and not count:
            reason = (
                f"{len(tied)} of {len(groups)} {names} have a row with several equally probable labels, which can only "
                "be trained on"
            )
        raise DataError(
            f"{key} {share:g} would hold out {'all' if count else 'none of the'} {len(rows)} training rows. Rows of "
            f"the same {name} are held out together, and {reason}.",
            hint=f"Change {key}, or give other rows in a file of their own."
            if passes_over
            else f"Lower {key}, or set it to 0.",
        )
    return [row for row in rows if row.group not in held_out], [row for row in rows if row.group in held_out]
