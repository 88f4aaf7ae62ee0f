"""The roles of a file's columns: texts to classify, labels, ids, and columns that are not used."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.data.columns import Row, get_column
from toolkit.data.messages import list_names
from toolkit.data.soft_labels import JSON_LINES_HINT, is_mapping_text, is_probability
from toolkit.data.values import optional_text
from toolkit.errors import DataError
from toolkit.recipe.labels import normalize_label

_ID_NAME = re.compile(r"(.*[_ #.-])?(id|uid|uuid|guid|idx|index|key|nr)\d*|.*[a-z](ID|Id)", re.IGNORECASE)
_DATE = re.compile(r"\d{1,2}:\d{2}|\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}")
_PLACEHOLDER = re.compile(r"[-–—?._*]+")
_MAX_DATE_CHARACTERS = 40  # a longer value that contains a date is a text
_MAX_CATEGORIES = 20  # distinct values of a column that groups rows, such as a domain or an annotator
_EXAMINED_VALUES = 10_000  # per column; counting distinct and blank values uses all of them
_WORDS, _IDS = "single words", "a different code in each row"  # reasons that `find_roles` compares


@dataclass(frozen=True)
class LabelValues:
    """The values of a label column.

    Args:
        labels: The labels with their number of rows: numbers in ascending order, other labels by frequency.
        placeholders: Values such as "-" that usually mean that there is no label, with their number of rows.
        unlabeled: The number of rows without a value.
    """

    labels: Mapping[str, int]
    placeholders: Mapping[str, int]
    unlabeled: int


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of the columns of a file.

    Args:
        inputs: The columns with the texts to classify.
        label: The column with the labels.
        label_values: The values of that column.
        id: The column with the ids, or None.
        label_names: The name of each label in another column that has one value for each label; empty without one.
        label_names_from: The column with these names, or None.
        others: The other columns, each with the reason why it is not an input.
    """

    inputs: tuple[str, ...]
    label: str
    label_values: LabelValues
    id: str | None = None
    label_names: Mapping[str, str] = field(default_factory=dict)
    label_names_from: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


def find_roles(rows: Sequence[Row], columns: Sequence[str], label: str, name: str) -> ColumnRoles:
    """Return the roles of a file's columns.

    Args:
        rows: The rows.
        columns: The names of the columns.
        label: The column with the labels.
        name: The name of the file, for messages.

    Raises:
        DataError: If the label column does not contain labels, or no column contains texts.
    """
    labels = [_label_text(label, get_column(row, label)) for row in rows]
    values = read_label_values(label, labels, name)
    labeled = [(row, text) for row, text in zip(rows, labels, strict=True) if text in values.labels]
    texts = {column: [row.get(column) for row, _ in labeled] for column in columns if column != label}
    reasons = {column: _exclusion_reason(column, texts[column]) for column in texts}
    known_labels = [text for _, text in labeled if text is not None]
    label_names_from, label_names = None, dict[str, str]()
    for column in texts:
        if names := _names_of_labels(column, texts[column], known_labels):
            reasons[column] = "names the labels"
            if label_names_from is None and all(map(is_code, values.labels)) and not any(map(is_code, names.values())):
                label_names_from, label_names = column, names
    inputs = [column for column, reason in reasons.items() if reason is None]
    if not inputs:
        # Without sentences, the texts can be single words, such as names.
        inputs = [column for column, reason in reasons.items() if reason == _WORDS][:1]
    if not inputs:
        listed = list_names(f"{column!r} ({reason})" for column, reason in reasons.items())
        raise DataError(
            f"{name} has no column with texts to classify" + (f": {listed}." if listed else "."),
            hint="Add a column with the text of each row.",
        )
    ids = [column for column, reason in reasons.items() if reason == _IDS and _ID_NAME.fullmatch(column)]
    row_id = ids[0] if len(ids) == 1 else None  # several id columns identify texts, not rows
    others = {column: reason for column, reason in reasons.items() if column not in inputs and column and reason}
    return ColumnRoles(
        tuple(inputs), label, values, row_id, label_names, label_names_from,
        {column: reason for column, reason in others.items() if column != row_id},
    )  # fmt: skip


def read_label_values(column: str, labels: Sequence[str | None], name: str) -> LabelValues:
    """Return the labels in a column.

    Args:
        column: The name of the column.
        labels: The normalized label of each row, or None.
        name: The name of the file, for messages.

    Raises:
        DataError: If the column has fewer than two labels, or most of its values differ.
    """
    counts = Counter(text for text in labels if text is not None)
    placeholders = {text: count for text, count in counts.items() if _PLACEHOLDER.fullmatch(text)}
    if len(counts) - len(placeholders) < 2:  # two labels that are signs, such as "+" and "-", are labels
        placeholders = {}
    kept = {text: count for text, count in counts.items() if text not in placeholders}
    rows = sum(kept.values())
    if len(kept) < 2:
        only = f"the value {next(iter(kept))!r:.80} in every row" if kept else "no value in any row"
        raise DataError(
            f"{name}: column {column!r} has {only}, so there is nothing to learn.",
            hint="Name the column with the labels. A task needs at least two of them.",
        )
    if len(kept) > max(2, rows / 2):
        raise DataError(
            f"{name}: column {column!r} has {len(kept):,} different values in {rows:,} rows, such as "
            f"{list_names(map(repr, list(kept)[:2]))}, so it does not contain labels.",
            hint="Name the column with the labels. Scores and texts cannot be predicted, only labels that recur.",
        )
    if all(_is_number(text) for text in kept):
        ordered = sorted(kept, key=float)
    else:
        ordered = sorted(kept, key=lambda text: -kept[text])  # stable: by first occurrence where the counts are equal
    return LabelValues({text: kept[text] for text in ordered}, placeholders, sum(text is None for text in labels))


def is_code(label: str) -> bool:
    """Return whether a label is a number, a truth value or an abbreviation, which means little to a language model."""
    is_abbreviation = len(label) <= 4 and label.isupper() and label.isascii() and label not in ("YES", "NO")
    return _is_number(label) or label in ("true", "false") or len(label) <= 1 or is_abbreviation


def _label_text(column: str, value: Any) -> str | None:
    is_list = isinstance(value, (list, tuple, set))
    if (is_list and any(map(is_probability, value))) or (isinstance(value, str) and is_mapping_text(value.strip())):
        raise DataError(
            f"Column {column!r} has probabilities as a list or as text ({value!r:.80}).", hint=JSON_LINES_HINT
        )
    if is_list:
        raise DataError(
            f"Column {column!r} has lists ({value!r:.80}), but a row can only have one label.",
            hint="Keep one label for each row, or train one model for each label, whose labels are yes and no.",
        )
    if isinstance(value, dict):
        probabilities = {key: number for key, number in value.items() if number is not None}
        if all(type(number) in (int, float) for number in probabilities.values()):  # a soft label
            return normalize_label(max(probabilities, key=lambda key: probabilities[key])) if probabilities else None
        keys = list_names(f"{column}.{key}" for key in value)
        raise DataError(f"Column {column!r} has objects, not labels.", hint=f"Name one of their keys: {keys}.")
    text = optional_text(column, value)
    return None if text is None else normalize_label(text)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text))


def _exclusion_reason(column: str, values: Sequence[Any]) -> str | None:
    """Return the reason why a column does not contain texts to classify, or None if it does."""
    # The thresholds tolerate a tenth of exceptions, such as a text without a letter among thousands of reviews.
    examined = values[:_EXAMINED_VALUES]
    filled = [value for value in examined if value is not None]
    if not column or not filled:
        return "has no name" if not column else "empty"
    if not all(isinstance(value, str) for value in filled):
        is_unique = len({str(value) for value in values}) == len(values)
        return _IDS if is_unique and all(isinstance(value, int) for value in filled) else "not text"
    texts = [value.strip() for value in filled if value.strip()]
    distinct = len(set(values))
    # Few blank texts are a mistake in the file, which is refused by row when the recipe's rows are loaded.
    if (blank := sum(value is None or not value.strip() for value in values)) * 10 > len(values):
        return "empty" if blank == len(values) else f"empty in {blank:,} rows"
    if distinct == 1:
        return "the same text in every row"
    has_spaces = _share(texts, lambda text: any(map(str.isspace, text)) or _is_written_without_spaces(text))
    has_letters = _share(texts, lambda text: any(map(str.isalpha, text)))
    if _share(texts, lambda text: text[0] in "([" and text[-1] in ")]") > 0.9:
        return "in brackets, like parse trees"
    if has_letters < 0.9 or has_spaces < 0.5 or _share(texts, _is_date) > 0.9:
        is_unique = distinct == len(values) and not _share(texts, _is_decimal) > 0.9
        if is_unique and (has_letters < 0.9 or _ID_NAME.fullmatch(column) or _has_digits(texts)):
            return _IDS
        if has_letters < 0.9 or _has_digits(texts):
            return "numbers or codes"
        return _WORDS if distinct > _MAX_CATEGORIES or distinct * 2 > len(values) else f"{distinct} different values"
    if distinct <= _MAX_CATEGORIES and distinct * 10 <= len(values):
        return f"{distinct} different values"
    return None


def _share(texts: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, texts)) / len(texts)


def _has_digits(texts: Sequence[str]) -> bool:
    return _share(texts, lambda text: any(map(str.isdigit, text))) > 0.5


def _is_date(text: str) -> bool:
    return len(text) <= _MAX_DATE_CHARACTERS and bool(_DATE.search(text))


def _is_decimal(text: str) -> bool:
    return "." in text and _is_number(text)


def _is_written_without_spaces(text: str) -> bool:
    """Return whether a text is in a script that does not separate words, such as Chinese, Japanese or Thai."""
    return any(
        unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI")) for character in text
    )


def _names_of_labels(column: str, values: Sequence[Any], labels: Sequence[str]) -> dict[str, str]:
    """Return the value of a column for each label if each label has its own, else an empty dictionary."""
    names: dict[str, str] = {}
    for value, label in zip(values, labels, strict=True):
        if value is None or isinstance(value, (list, dict, bytes)) or not str(value).strip():
            return {}
        if names.setdefault(label, str(value).strip()) != str(value).strip():
            return {}
    return names if len(set(names.values())) == len(names) else {}
