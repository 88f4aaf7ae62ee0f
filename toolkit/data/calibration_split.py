"""The split of training rows into rows to train on and a calibration set."""

import random
from collections import Counter
from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import DataError


def split_calibration(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off a calibration set such that no premise is in both parts.

    Args:
        rows: All training rows.
        share: The share of the rows to hold out, from 0 to below 1. Premises are drawn until it is reached, so the
            calibration set exceeds it by less than the rows of one premise.
        seed: The seed of the draw. The result depends only on the seed, the premises and their order.

    Returns:
        The rows to train on and the calibration set, each in the order of `rows`.

    Raises:
        DataError: If no rows would be left to train on.
    """
    if not share:
        return list(rows), []
    sizes = Counter(row.premise for row in rows)
    premises = list(
        sizes
    )  # in order of first occurrence: a set of strings would be ordered differently in each process
    # Random hashes a string seed with SHA-512, so the draw is the same on every machine. Changing the text would change
    # the calibration set of every recipe.
    random.Random(f"hold back {seed}").shuffle(premises)
    calibration_premises: set[str] = set()
    count = 0
    while count < share * len(rows):
        premise = premises[len(calibration_premises)]
        calibration_premises.add(premise)
        count += sizes[premise]
    if count == len(rows):
        raise DataError(
            f"data.calibration_share {share:g} would hold out all {len(rows)} training rows. Rows of the same premise "
            f"are held out together, and there are only {len(premises)} premises.",
            hint="Lower data.calibration_share, or set it to 0.",
        )
    return [row for row in rows if row.premise not in calibration_premises], [
        row for row in rows if row.premise in calibration_premises
    ]
