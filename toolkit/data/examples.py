"""The conversion of rows to examples: columns and labels are mapped, and every row is checked."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.data.example import Example
from toolkit.data.sources import Row, describe, read_rows
from toolkit.errors import DataError
from toolkit.recipe.labels import label_texts, normalize_label
from toolkit.recipe.schema import Recipe, Source

logger = logging.getLogger(__name__)

_SHOWN_NAMES, _SHOWN_CHARACTERS = 30, 80  # in a message, of columns and labels


def load_examples(
    recipe: Recipe, source: Source, *, is_training: bool = False, is_external: bool = False
) -> list[Example]:
    """Read a source and check each row.

    Args:
        recipe: The recipe, which names the columns and labels.
        source: The source to read.
        is_training: Whether these are training rows, which must contain every label and need no columns to slice by.
        is_external: Whether the recipe was not written for these rows, so that the columns for the id and the slices
            may be missing.

    Raises:
        DataError: If a column is missing or rows are invalid. The message names the column, or the first rows and the
            reasons.
    """
    rows, columns = read_rows(source)
    names = recipe.data.columns
    slices = () if is_training else recipe.evaluation.slice_by
    if is_external:
        slices = tuple(column for column in slices if column in columns)
    id_columns = [names.id] if names.id and not is_external else []
    required_columns = [names.premise, names.hypothesis, names.label, *id_columns, *slices]
    if missing := [column for column in required_columns if column not in columns]:
        raise DataError(
            f"{describe(source)} has no column {missing[0]!r}; its columns are {list_names(map(repr, columns))}.",
            hint=_columns_hint(columns, missing[0]),
        )
    if names.label in (names.premise, names.hypothesis):
        raise DataError(
            f"data.columns names {names.label!r} as the label and as a text, so the input would contain the answer.",
            hint="Give each its own column.",
        )
    labels = label_texts(recipe.task.labels, recipe.data.label_map)
    # All rows are checked before the error is raised, so that its message shows how many are invalid.
    examples, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_build_example(recipe, labels, row, number, slices))
        except DataError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        total = f" ({len(problems)} rows are invalid)" if len(problems) > 1 else ""
        hint = _label_hint(recipe) if any(" is not one of " in problem for problem in problems) else "Fix the rows."
        raise DataError(f"{describe(source)}, {'; '.join(problems[:3])}{total}.", hint=hint)
    if is_training:
        check_all_labels_occur(recipe, examples, describe(source))
    for column in slices:
        if absent := sum(column not in example.slices for example in examples):
            logger.warning(
                "WARNING: %s has %d rows without a value in column %r. They are in none of its slices.",
                describe(source), absent, column,
            )  # fmt: skip
    return examples


def list_names(names: Iterable[str]) -> str:
    """Return names for a message, each of them and their number cut to a length that can be read."""
    shown = [name[:_SHOWN_CHARACTERS] for name in names]
    return ", ".join(shown[:_SHOWN_NAMES]) + (
        f" and {len(shown) - _SHOWN_NAMES:,} more" if len(shown) > _SHOWN_NAMES else ""
    )


def similar_name_hint(names: Iterable[str], missing: str) -> str | None:
    """Return a hint if a name looks like the missing one, but has other whitespace or another Unicode form."""
    similar = next((name for name in names if normalize_label(name) == normalize_label(missing)), None)
    if similar is None:
        return None
    return f"{similar!a} and {missing!a} differ only in whitespace or in their Unicode form. Rename one of them."


def _columns_hint(columns: Sequence[str], missing: str) -> str:
    if hint := similar_name_hint(columns, missing):
        return hint
    # Spreadsheets write semicolons in locales whose decimal separator is a comma. The header is then a single column.
    if len(columns) == 1 and (delimiter := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        return f"The columns are separated by {delimiter!r}. Save the file with commas, or with tabs as .tsv."
    return "Name the columns in data.columns; evaluation.slice_by: [] leaves out the slices."


def check_all_labels_occur(recipe: Recipe, examples: Sequence[Example], source_name: str) -> None:
    """Check that every label of the recipe occurs in the training rows.

    Args:
        recipe: The recipe, which names the labels.
        examples: The training rows.
        source_name: The origin of the rows, for the message.

    Raises:
        DataError: If a label has no row. The message names the first such label.
    """
    if missing := [label for label, count in label_counts(recipe, examples).items() if count == 0]:
        raise DataError(
            f"{source_name} has no row with label {missing[0]!r}, so the model could not learn it.",
            hint="Remove the label from task.labels, add rows, or raise data.train.limit.",
        )


def row_texts(recipe: Recipe, row: Row) -> tuple[str, str]:
    """Return the premise and hypothesis of a row, without surrounding whitespace.

    Raises:
        DataError: If one of them is not a valid text, see `check_text`.
    """
    names = recipe.data.columns
    return check_text(names.premise, row.get(names.premise)), check_text(names.hypothesis, row.get(names.hypothesis))


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


def _build_example(recipe: Recipe, labels: Mapping[str, str], row: Row, number: int, slices: Sequence[str]) -> Example:
    names = recipe.data.columns
    premise, hypothesis = row_texts(recipe, row)
    row_id = _optional_text(names.id, row.get(names.id)) if names.id else None
    slice_values = {column: _optional_text(column, row.get(column)) for column in slices}
    return Example(
        id=str(number) if row_id is None else row_id,
        premise=premise,
        hypothesis=hypothesis,
        label=read_label(names.label, row.get(names.label), labels),
        slices={column: value for column, value in slice_values.items() if value is not None},
    )


def _optional_text(column: str, value: Any) -> str | None:
    """Return a value as text, or None if it is absent.

    Absent are a missing key, null, NaN (how tables of numbers mark a missing one) and blank text: a cell of a CSV file
    is text even if it is empty, and quotation marks around nothing do not change that.
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
        value: The value: text, a number, or a mark of absence such as None.
        labels: The label of each text, see `label_texts`.

    Raises:
        DataError: If the value is absent or does not mean a label.
    """
    text = _optional_text(column, value)
    if text is None:
        raise DataError(f"column {column!r} must contain a label, not {value!r}")
    label = labels.get(normalize_label(text))
    if label is None:
        raise DataError(f"label {value!r:.80} is not one of {list_names(dict.fromkeys(labels.values()))}")
    return label


def _label_hint(recipe: Recipe) -> str:
    example = {0: recipe.task.labels[0]}
    return f"Fix the rows, or map other label names with data.label_map, e.g. {example}."


def label_counts(recipe: Recipe, examples: Sequence[Example]) -> dict[str, int]:
    """Return the number of rows of each label, in the order of task.labels."""
    counts = Counter(example.label for example in examples)
    return {label: counts[label] for label in recipe.task.labels}


def fingerprint(examples: Sequence[Example]) -> str:
    """Return the SHA-256 digest of the ids, texts and labels of the rows, in their order, as hexadecimal."""
    # Each row is hashed as a JSON list. Joined texts would be the same if words moved from one field to the next.
    digest = hashlib.sha256()
    for example in examples:
        row = [example.id, example.premise, example.hypothesis, example.label]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
