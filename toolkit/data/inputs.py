"""The rows that the API accepts for classification: tuples, dictionaries, a DataFrame, or texts for a single input."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from toolkit.data.columns import get_column, has_column
from toolkit.data.label_column import LabelColumn
from toolkit.data.messages import list_names
from toolkit.data.values import check_text
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe
from toolkit.utils.formatting import join_names

T = TypeVar("T")
RowInputs = Iterable[str | Sequence[str] | Mapping[str, str]]
"""Rows as tuples of texts, e.g. (premise, hypothesis), as dictionaries, or as texts if a row has a single input.

A pandas DataFrame is read row by row."""


def read_inputs(rows: Any, recipe: Recipe) -> list[dict[str, str]]:
    """Return the text of each input of each row, without surrounding whitespace.

    Args:
        rows: The rows, see `RowInputs`. Tuples are in the order of `TaskSection.inputs`. Dictionaries and DataFrames
            can use the names of the inputs or the column names of the recipe.
        recipe: The recipe, which names the inputs and columns.

    Raises:
        DataError: If a row does not have a text for each input. The message names the first such rows, counted from 1.
    """
    names = recipe.task.inputs
    joined_names = ", ".join(names)
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        texts = ", ".join(f'"{name}"' for name in names)
        keys = ", ".join(f'"{name}": ...' for name in names)
        raise DataError(
            f"Expected a list of rows, not a single {type(rows).__name__}.",
            hint=f"Write [{texts if len(names) == 1 else f'({texts})'}] or [{{{keys}}}].",
        )
    # A DataFrame is recognized by its attributes, so that pandas need not be imported (half a second) or installed.
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        columns = list(rows.columns)
        if repeated := [name for name in columns if columns.count(name) > 1]:  # a dictionary would keep only the last
            raise DataError(f"The DataFrame has two columns named {repeated[0]!r}.", hint="Rename one of them.")
        rows = rows.to_dict("records")
    hint = f"Give each row as {'a text' if len(names) == 1 else f'({joined_names})'} or as a dictionary."
    return _read_all(rows, lambda row: _read_row(row, recipe), hint)


def read_labels(values: Iterable[Any], recipe: Recipe) -> list[str]:
    """Return the label that each value means, as the recipe spells it; data.label_map applies.

    Raises:
        DataError: If a value is missing or is not a label. The message names the first such rows, counted from 1.
    """
    column = LabelColumn.of(recipe, recipe.data.eval, is_training=True)
    hint = "Fix the labels, or map other label names with data.label_map."
    return _read_all(values, column.read, hint)


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


def _read_row(row: Any, recipe: Recipe) -> dict[str, str]:
    names = recipe.task.inputs
    if isinstance(row, Mapping):
        keys = {name: _find_key(row, name, recipe) for name in names}
        return {name: check_text(key, get_column(row, key)) for name, key in keys.items()}
    if isinstance(row, str) and len(names) == 1:
        row = [row]
    if isinstance(row, (str, bytes)) or not isinstance(row, Sequence) or len(row) != len(names):
        texts = join_names((f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names), "and")
        raise DataError(f"{row!r:.60} is not {texts}")
    return {name: check_text(name, text) for name, text in zip(names, row, strict=True)}


def _find_key(row: Mapping[str, Any], name: str, recipe: Recipe) -> str:
    """Return the column name of the recipe if the row has it, and otherwise the name of the input."""
    columns = [recipe.columns_of(source).inputs[name] for source in (recipe.data.train, recipe.data.eval)]
    for key in (*columns, name):
        if has_column([row], key):
            return key
    raise DataError(f"it has no key {columns[0]!r}, only {list_names(map(repr, row))}")
