"""The rows that the API accepts for classification: tuples, dictionaries or a DataFrame."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from toolkit.data.examples import check_text, list_names, read_label
from toolkit.errors import DataError
from toolkit.recipe.labels import label_texts
from toolkit.recipe.schema import Columns, Recipe

T = TypeVar("T")
PairInputs = Iterable[tuple[str, str] | Sequence[str] | Mapping[str, str]]
"""Rows as (premise, hypothesis) or as dictionaries. A pandas DataFrame is read row by row."""


def read_pairs(rows: Any, columns: Columns) -> list[tuple[str, str]]:
    """Return the premise and hypothesis of each row, without surrounding whitespace.

    Args:
        rows: The rows, see `PairInputs`. Dictionaries and DataFrames may use the names premise and hypothesis or the
            column names of the recipe.
        columns: The column names of the recipe.

    Raises:
        DataError: If a row does not have two texts. The message names the first such rows, counted from 1.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(
            f"Expected a list of rows, not a single {type(rows).__name__}.",
            hint='Write [("premise", "hypothesis")] or [{"premise": ..., "hypothesis": ...}].',
        )
    # A DataFrame is recognized by its attributes, so that pandas need not be imported (half a second) or installed.
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        names = list(rows.columns)
        if repeated := [name for name in names if names.count(name) > 1]:  # a dictionary would keep only the last
            raise DataError(f"The DataFrame has two columns named {repeated[0]!r}.", hint="Rename one of them.")
        rows = rows.to_dict("records")
    hint = "Give each row as (premise, hypothesis) or as a dictionary."
    return _read_all(rows, lambda row: _read_pair(row, columns), hint)


def read_labels(values: Iterable[Any], recipe: Recipe) -> list[str]:
    """Return the label that each value means, as the recipe spells it; data.label_map applies.

    Raises:
        DataError: If a value is absent or is not a label. The message names the first such rows, counted from 1.
    """
    labels = label_texts(recipe.task.labels, recipe.data.label_map)
    hint = "Fix the labels, or map other label names with data.label_map."
    return _read_all(values, lambda value: read_label(recipe.data.columns.label, value, labels), hint)


def _read_all(rows: Iterable[Any], read: Callable[[Any], T], hint: str) -> list[T]:
    values, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            values.append(read(row))
        except DataError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        total = f" ({len(problems)} rows are invalid)" if len(problems) > 1 else ""
        raise DataError(f"{'; '.join(problems[:3])}{total}.", hint=hint)
    return values


def _read_pair(row: Any, columns: Columns) -> tuple[str, str]:
    if isinstance(row, Mapping):
        names = [
            _text_key(row, name, column)
            for name, column in (("premise", columns.premise), ("hypothesis", columns.hypothesis))
        ]
        texts = [row[name] for name in names]
    elif isinstance(row, Sequence) and not isinstance(row, (str, bytes)) and len(row) == 2:
        names, texts = ["premise", "hypothesis"], list(row)
    else:
        raise DataError(f"{row!r:.60} is not a premise and a hypothesis")
    premise, hypothesis = (check_text(name, text) for name, text in zip(names, texts, strict=True))
    return premise, hypothesis


def _text_key(row: Mapping[str, Any], name: str, column: str) -> str:
    """Return the column name of the recipe if the row has it, and otherwise the generic name."""
    if column in row:
        return column
    if name in row:
        return name
    raise DataError(f"it has no key {column!r}, only {list_names(map(repr, row))}")
