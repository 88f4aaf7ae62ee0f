"""Failures of scoring, as one sentence each: memory that runs out, and scores that are not numbers."""

from contextlib import AbstractContextManager

import numpy as np

from toolkit.errors import ModelError
from toolkit.utils.memory_errors import memory_errors


def scoring_errors() -> AbstractContextManager[None]:
    """Return `memory_errors` for an evaluation or a prediction."""
    return memory_errors(
        "The device's memory does not hold a forward pass over these rows.",
        hint='Lower evaluation.batch_tokens, e.g. overrides={"evaluation.batch_tokens": 512}, '
        "or set model.load_in_4bit: true.",
    )


def check_finite(scores: np.ndarray, first_row: int = 1) -> None:
    """Refuse [rows, ...] scores that are no numbers.

    Args:
        scores: of which each row must be finite.
        first_row: the number of the first row in its file, for the message.

    Raises:
        ModelError: naming the first such rows.
    """
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1)) + first_row
    if len(broken):
        raise ModelError(
            f"The model's scores of {len(broken)} rows are no numbers; row {', '.join(map(str, broken[:3]))}.",
            hint="Its weights or its precision are at fault: look into train_log.jsonl, or set model.dtype: float32.",
        )
