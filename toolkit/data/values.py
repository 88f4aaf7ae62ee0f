"""Values of rows: texts, labels and missing values, with the errors for values that cannot be used."""

import re
from collections.abc import Mapping
from typing import Any

from toolkit.data.messages import list_names
from toolkit.data.soft_labels import JSON_LINES_HINT, is_mapping_text, is_probability
from toolkit.errors import DataError
from toolkit.recipe.labels import normalize_label, suggest_label

SEVERAL_LABELS_HINT = (
    "Keep one label for each row, or train one model for each label, whose labels are yes and no. "
    "Copies of the row with its other labels would contradict each other."
)


def check_text(column: str, text: Any) -> str:
    """Return a text without surrounding whitespace.

    Raises:
        DataError: If it is not a string, is blank or contains a lone surrogate.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"column {column!r} must contain text, not {text!r:.80}")
    _check_surrogates(column, text)
    return text.strip()


def _check_surrogates(column: str, text: str) -> None:
    """Check that a text has no lone surrogate, which neither a tokenizer nor a UTF-8 file can encode."""
    # JSON can escape one half of a surrogate pair ("\\ud800"), and Python's parser accepts it.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"column {column!r} contains half of a character (a lone surrogate)")


def optional_text(column: str, value: Any) -> str | None:
    """Return a value as text, or None if it is missing.

    Missing are an absent key, null, NaN (how tables of numbers mark a missing one) and blank text, because CSV cannot
    tell an empty cell from an empty text.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, (bytes, list, dict)):  # its text would be Python code, such as [None]
        raise DataError(f"column {column!r} must contain text or a number, not {value!r:.80}")
    text = str(value)
    _check_surrogates(column, text)
    return text if text.strip() else None


def _is_nan(value: Any) -> bool:
    try:
        return bool(value != value)  # only NaN differs from itself, of whatever type it is
    except (TypeError, ValueError):  # pandas.NA: even this comparison is NA. Arrays: one result for each element
        return type(value).__name__ == "NAType"


def read_label(column: str, value: Any, labels: Mapping[str, str]) -> str:
    """Return the label that a value in the data means.

    Args:
        column: The name of the value's column, for messages.
        value: The value: text, a number, or a missing value such as None.
        labels: The label of each text, see `label_texts`.

    Raises:
        DataError: If the value is missing or does not mean a label.
    """
    if isinstance(value, (list, tuple, set)) and value:
        if any(map(is_probability, value)):
            raise DataError(f"column {column!r} has probabilities as a list ({value!r:.80})", hint=JSON_LINES_HINT)
        raise DataError(
            f"column {column!r} has a list ({value!r:.80}), but a row can only have one label", hint=SEVERAL_LABELS_HINT
        )
    text = optional_text(column, value)
    if text is None:
        raise DataError(f"column {column!r} must contain a label, not {value!r}")
    label = labels.get(normalize_label(text))
    if label is None:
        if is_mapping_text(text):
            raise DataError(
                f"column {column!r} has a mapping as text ({value!r:.80}), not a label", hint=JSON_LINES_HINT
            )
        names = list(dict.fromkeys(labels.values()))
        problem = f"label {value!r:.80} is not one of {list_names(names)}"
        if has_several_labels(text, labels):
            problem += "; it lists several labels, but a row can only have one"
            raise DataError(problem, hint=SEVERAL_LABELS_HINT)
        raise DataError(problem + suggest_label(text, names))
    return label


def has_several_labels(text: str, labels: Mapping[str, str]) -> bool:
    """Return whether a text consists of several labels, such as "joy, anger" or "2|5"."""
    return any(
        separator in text and all(normalize_label(piece) in labels for piece in text.split(separator))
        for separator in re.findall(r"[,;|/]", text)[:1]
    )
