"""Soft labels: a probability for each label of a row, from a teacher model or from several annotators."""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from toolkit.data.example import Example
from toolkit.data.messages import list_names
from toolkit.errors import DataError
from toolkit.recipe.labels import normalize_label, suggest_label

_TOLERANCE = 1e-3  # of the sum, because files often have probabilities that are rounded to a few digits
_SHOWN_ROWS = 3  # in a message
JSON_LINES_HINT = "Write the rows as JSON Lines, where a label can be a mapping from labels to probabilities."


def has_probabilities(value: Any) -> bool:
    """Return whether a label is a mapping that has a value for at least one key.

    Parquet has all keys in every row, and null for those that a row does not have.
    """
    return isinstance(value, Mapping) and any(probability is not None for probability in value.values())


def is_mapping_text(text: str) -> bool:
    """Return whether a text is a mapping as JSON or Python writes it, which files without nested values contain."""
    return text.startswith("{") and text.endswith("}") and ":" in text


def is_probability(item: Any) -> bool:
    """Return whether an item of a list is a probability, or a label with one, as in a Parquet map."""
    number = item[1] if isinstance(item, tuple) and len(item) == 2 else item
    return isinstance(number, float) and 0 <= number <= 1  # integers can be labels, or mark several labels with 1


def read_soft_label(
    column: str, value: Mapping[Any, Any], texts: Mapping[str, str], left_out: Collection[str], labels: Sequence[str]
) -> tuple[float, ...]:
    """Return the probability of each label, normalized so that they sum to 1.

    Args:
        column: The name of the value's column, for messages.
        value: The probability of each label. A label that is absent or null has the probability 0.
        texts: The label of each text, see `label_texts`. The probabilities of texts of the same label are added.
        left_out: The texts whose rows are left out, see `left_out_texts`.
        labels: The labels, in the order of the result.

    Raises:
        DataError: If there are no values, a key is not a label, or the values are not probabilities that sum to 1.
    """
    if not has_probabilities(value):
        raise DataError(f"column {column!r} must contain a label, not {value!r:.80}")
    sums = dict.fromkeys(labels, 0.0)
    for key, given in value.items():
        if given is None:
            continue
        text = normalize_label(key)
        label = texts.get(text)
        if text not in left_out and label not in sums:
            raise DataError(
                f"column {column!r} has a mapping with the key {str(key)!r:.80}, which is not one of "
                f"{list_names(labels)}{suggest_label(key, labels)}"
            )
        probability = _read_probability(column, key, given)
        if label in sums:
            sums[label] += probability
        elif probability:
            raise DataError(
                f"column {column!r} has the probability {probability:g} for {str(key)!r:.80}, which the label map "
                "leaves out",
                hint="Remove the key and divide the other probabilities by their sum, or map it to a label.",
            )
    total = math.fsum(sums.values())
    if abs(total - 1) > _TOLERANCE:
        shown = ", ".join(f"{label}: {probability:g}" for label, probability in sums.items() if probability)
        raise DataError(
            f"column {column!r} has probabilities that sum to {total:g}, not to 1 ({{{shown:.80}}})",
            hint="Divide the probabilities of each row by their sum.",
        )
    return tuple(probability / total for probability in sums.values())


def _read_probability(column: str, key: Any, value: Any) -> float:
    number = math.nan
    if not isinstance(value, (bool, str, bytes)):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise DataError(
            f"column {column!r} has {value!r:.40} as the probability of {str(key)!r:.80}, which is not a finite number "
            "of at least 0",
            hint="Write a number of at least 0 for each label; the numbers of a row must sum to 1.",
        )
    return number


def check_gold_labels(examples: Sequence[Example], merge_labels: Collection[str], source_name: str) -> None:
    """Check that each row has one label that predictions can be compared with.

    Args:
        examples: The rows to evaluate or validate on.
        merge_labels: The names of evaluation.merge_labels.
        source_name: The origin of the rows, for the message.

    Raises:
        DataError: If the most probable labels of a row have the same probability, or labels with probabilities would
            have to be merged.
    """
    tied = [row.id for row in examples if row.is_tied]
    soft = [row.id for row in examples if row.soft_label is not None] if merge_labels else []
    if not tied and not soft:
        return
    ids = tied or soft
    listed = ", ".join(f"{row_id:.40}" for row_id in ids[:_SHOWN_ROWS]) + (" ..." if len(ids) > _SHOWN_ROWS else "")
    if tied:
        raise DataError(
            f"{source_name}: several labels are equally probable in {_count_rows(tied)} (row {listed}), so there is no "
            "label to compare a prediction with.",
            hint="Remove the rows, or choose one label for each. Only training rows can have such labels.",
        )
    raise DataError(
        f"{source_name}: the label of {_count_rows(soft)} (row {listed}) is a mapping of probabilities, which "
        "evaluation.merge_labels cannot merge: the most probable label can be outside the most probable merged label.",
        hint="Give these rows a single label, or leave out evaluation.merge_labels.",
    )


def _count_rows(ids: Sequence[str]) -> str:
    return f"{len(ids):,} row" + ("s" if len(ids) > 1 else "")
