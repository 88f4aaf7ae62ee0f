"""Which training rows are held back: whole premises, chosen by the seed and the rows alone."""

import random
from collections import Counter
from collections.abc import Sequence

from toolkit.data.example import Example
from toolkit.errors import DataError


def split_calibration(rows: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Part the training rows so that no premise stands on both sides.

    Args:
        rows: all training rows.
        share: of the rows to hold back, 0 to below 1; premises are drawn until it is reached, so that at most one
            premise's rows are too many.
        seed: decides, with the rows' premises and their order, which premises are drawn.

    Returns:
        The rows to train on and the rows held back, each in the order of `rows`.

    Raises:
        DataError: nothing would be left to train on.
    """
    if not share:
        return list(rows), []
    sizes = Counter(row.premise for row in rows)
    premises = list(sizes)  # in the order in which they first stand
    random.Random(f"hold back {seed}").shuffle(premises)
    calibration_premises: set[str] = set()
    count = 0
    while count < share * len(rows):
        premise = premises[len(calibration_premises)]
        calibration_premises.add(premise)
        count += sizes[premise]
    if count == len(rows):
        raise DataError(
            f"data.calibration_share {share:g} would hold back all {len(rows)} training rows: whole premises are held "
            f"back, and the rows have {len(premises)}.",
            hint="Lower data.calibration_share, or set it to 0.",
        )
    return [row for row in rows if row.premise not in calibration_premises], [
        row for row in rows if row.premise in calibration_premises
    ]
