"""Checks that turn scoring failures, such as running out of memory or NaN, into readable errors."""

from contextlib import AbstractContextManager

import numpy as np

from toolkit.errors import ModelError
from toolkit.utils.memory_errors import memory_errors


def scoring_errors() -> AbstractContextManager[None]:
    """Return a context manager that reports running out of memory during scoring; see `memory_errors`."""
    return memory_errors(
        "Out of memory: the device does not have enough memory for a forward pass over these rows.",
        hint='Lower evaluation.batch_tokens, e.g. overrides={"evaluation.batch_tokens": 512}, '
        "or set model.load_in_4bit: true.",
    )


def check_finite(scores: np.ndarray, first_row: int = 1) -> None:
    """Check that scores contain neither NaN nor infinity.

    Args:
        scores: The scores, [rows, ...].
        first_row: The number of the first row in its file, for the message.

    Raises:
        ModelError: If a score is not finite. The message names the first such rows.
    """
    invalid_rows = np.flatnonzero(~np.isfinite(scores).all(axis=1)) + first_row
    if len(invalid_rows):
        raise ModelError(
            f"The model returned NaN or inf for {len(invalid_rows)} rows (the first: "
            f"{', '.join(map(str, invalid_rows[:3]))}).",
            hint="The cause is its weights or its precision. Check train_log.jsonl, or set model.dtype: float32.",
        )
