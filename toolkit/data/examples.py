"""Rows become examples: columns and labels mapped, every row checked."""

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
        recipe: names the columns, the labels and the columns to slice by.
        source: where the rows are.
        is_training: training rows need every label, and no columns to slice by.
        is_external: rows that the recipe was not written for need no id and no columns to slice by.

    Raises:
        DataError: naming the column, or the first rows that cannot be used and why.
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
    examples, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_example(recipe, row, number, slices))
        except DataError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        total = f" ({len(problems)} rows cannot be used)" if len(problems) > 1 else ""
        raise DataError(f"{describe(source)}, {'; '.join(problems[:3])}{total}.", hint=_label_hint(recipe))
    if is_training:
        check_all_labels_occur(recipe, examples, describe(source))
    return examples


def _columns_hint(columns: Sequence[str]) -> str:
    # What a table's program writes where commas stand in numbers.
    if len(columns) == 1 and (delimiter := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        return f"The columns stand between {delimiter!r}, not commas: save the file with commas, or with tabs as .tsv."
    return "Name the columns in data.columns (and evaluation.slice_by)."


def check_all_labels_occur(recipe: Recipe, examples: Sequence[Example], where: str) -> None:
    """Refuse training rows that lack a label.

    Args:
        recipe: names the labels.
        examples: the rows.
        where: where they come from, for the message.

    Raises:
        DataError: naming the first label without a row.
    """
    if missing := [label for label, count in label_counts(recipe, examples).items() if count == 0]:
        raise DataError(
            f"{where} has no row of label {missing[0]!r}, so the model could not learn it.",
            hint="Remove the label from task.labels, add rows, or raise data.train.limit.",
        )


def row_texts(recipe: Recipe, row: Row) -> tuple[str, str]:
    """Return a row's premise and hypothesis without outer white space.

    Raises:
        DataError: one of them is no text.
    """
    names = recipe.data.columns
    return check_text(names.premise, row.get(names.premise)), check_text(names.hypothesis, row.get(names.hypothesis))


def check_text(column: str, text: Any) -> str:
    """Return a text without outer white space.

    Raises:
        DataError: it is no text, blank, or has half of a character.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"column {column!r} holds {text!r}, not a text")
    _check_surrogates(column, text)
    return text.strip()


def _check_surrogates(column: str, text: str) -> None:
    """A lone surrogate has no UTF-8: neither a tokenizer nor a file could take it."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"column {column!r} holds half of a character (a lone surrogate)")


def _example(recipe: Recipe, row: Row, number: int, slices: Sequence[str]) -> Example:
    names = recipe.data.columns
    premise, hypothesis = row_texts(recipe, row)
    for column in [*([names.id] if names.id else []), *slices]:
        _check_surrogates(column, str(row.get(column)))
    return Example(
        id=str(row[names.id]) if names.id and row.get(names.id) is not None else str(number),
        premise=premise,
        hypothesis=hypothesis,
        label=_label(recipe, row.get(names.label)),
        slices={column: str(row.get(column)) for column in slices},
    )


def _label(recipe: Recipe, value: Any) -> str:
    mapping = {str(key): label for key, label in (recipe.data.label_map or {}).items()}
    text = str(value).strip()
    label = mapping.get(text, text)
    if label not in recipe.task.labels:
        raise DataError(f"its label is {value!r}, which is not one of {', '.join(recipe.task.labels)}")
    return label


def _label_hint(recipe: Recipe) -> str:
    example = {0: recipe.task.labels[0]}
    return f"Mend the rows, or map other names of the labels with data.label_map, e.g. {example}."


def label_counts(recipe: Recipe, examples: Sequence[Example]) -> dict[str, int]:
    """Rows of each label, in the order of the labels."""
    counts = Counter(example.label for example in examples)
    return {label: counts[label] for label in recipe.task.labels}


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the rows' ids, texts, labels and order, as hexadecimal."""
    digest = hashlib.sha256()
    for example in examples:
        row = [example.id, example.premise, example.hypothesis, example.label]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
