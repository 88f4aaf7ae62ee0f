"""The conversion of rows to examples: columns and labels are mapped, and every row is checked."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from toolkit.data.example import Example
from toolkit.data.sources import Row, describe, read_rows
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe, Source


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
            f"{describe(source)} has no column {missing[0]!r}; its columns are {', '.join(map(repr, columns))}.",
            hint=_columns_hint(columns),
        )
    # All rows are checked before the error is raised, so that its message shows how many are invalid.
    examples, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_build_example(recipe, row, number, slices))
        except DataError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        total = f" ({len(problems)} rows are invalid)" if len(problems) > 1 else ""
        raise DataError(f"{describe(source)}, {'; '.join(problems[:3])}{total}.", hint=_label_hint(recipe))
    if is_training:
        check_all_labels_occur(recipe, examples, describe(source))
    return examples


def _columns_hint(columns: Sequence[str]) -> str:
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
        raise DataError(f"column {column!r} must contain text, not {text!r}")
    _check_surrogates(column, text)
    return text.strip()


def _check_surrogates(column: str, text: str) -> None:
    """Check that a text has no lone surrogate, which neither a tokenizer nor a UTF-8 file can encode."""
    # JSON can escape one half of a surrogate pair ("\\ud800"), and Python's parser accepts it.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"column {column!r} contains half of a character (a lone surrogate)")


def _build_example(recipe: Recipe, row: Row, number: int, slices: Sequence[str]) -> Example:
    names = recipe.data.columns
    premise, hypothesis = row_texts(recipe, row)
    for column in [*([names.id] if names.id else []), *slices]:
        _check_surrogates(column, str(row.get(column)))
    return Example(
        id=str(row[names.id]) if names.id and row.get(names.id) is not None else str(number),
        premise=premise,
        hypothesis=hypothesis,
        label=_map_label(recipe, row.get(names.label)),
        slices={column: str(row.get(column)) for column in slices},
    )


def _map_label(recipe: Recipe, value: Any) -> str:
    # Labels are compared as text, so that the key 0 of a label map matches both the number in JSON and "0" in CSV.
    mapping = {str(key): label for key, label in (recipe.data.label_map or {}).items()}
    text = str(value).strip()
    label = mapping.get(text, text)
    if label not in recipe.task.labels:
        raise DataError(f"label {value!r} is not one of {', '.join(recipe.task.labels)}")
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
