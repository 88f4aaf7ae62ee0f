"""Checks before and after scoring: truncated texts, running out of memory and NaN become readable messages."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from toolkit.errors import ModelError
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.sentence_pairs import EncodedPair
from toolkit.recipe.inputs import name_texts
from toolkit.utils.memory_errors import memory_errors

logger = logging.getLogger(__name__)

_MIN_ROWS, _MIN_COLUMNS = 8, 4
"""The numbers of equal scores that are not a coincidence, even in 16 bits: of different rows, and within a row."""

_ROUNDING = 1e-4  # nats: what the rows that are computed together change


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


def warn_of_truncation(rows: Sequence[EncodedRow | EncodedPair], max_seq_length: int, name: str) -> None:
    """Log a warning if texts were truncated, because the answers are then about other texts than those given.

    Args:
        rows: The rows.
        max_seq_length: The value of model.max_seq_length.
        name: The name of the input that is truncated.
    """
    if shortened := sum(row.shortened for row in rows):
        logger.warning(
            "WARNING: %d of %d %s were truncated to fit into model.max_seq_length %d.",
            shortened, len(rows), name_texts(name), max_seq_length,
        )  # fmt: skip


def check_depends_on_input(scores: np.ndarray, rows: Sequence[tuple[int, ...]]) -> None:
    """Check that a model distinguishes labels and rows. Weights that are all zero give every answer the same score.

    Args:
        scores: The scores of edges or labels, [rows, scores].
        rows: The token ids of each row.

    Raises:
        ModelError: If all scores are equal, or those of many different rows are.
    """
    is_uniform = scores.shape[1] >= _MIN_COLUMNS and not np.ptp(scores, axis=1).any()
    if is_uniform or (len(set(rows)) >= _MIN_ROWS and np.ptp(scores, axis=0).max() < _ROUNDING):
        raise ModelError(
            f"The model's scores do not depend on its input: they are the same for "
            f"{'every answer' if is_uniform else f'{len(rows)} rows'}, so its answers are meaningless.",
            hint="Its weights are damaged, e.g. all zero. Copy or export the model again, or train it again.",
        )
