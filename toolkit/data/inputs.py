"""What the API accepts as rows to classify: tuples, dictionaries, or a DataFrame."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.data.examples import check_text
from toolkit.errors import DataError
from toolkit.recipe.schema import Columns

PairInputs = Iterable[tuple[str, str] | Sequence[str] | Mapping[str, str]]
"""Rows as (premise, hypothesis), or as dictionaries; a pandas DataFrame is read row by row."""


def read_pairs(rows: Any, columns: Columns) -> list[tuple[str, str]]:
    """Return each row's premise and hypothesis without outer white space.

    Args:
        rows: see `PairInputs`. A dictionary or a DataFrame names its texts premise and hypothesis, or as the recipe
            names its columns.
        columns: the recipe's names.

    Raises:
        DataError: naming the first rows that hold no two texts, counted from 1.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(
            f"A single {type(rows).__name__} was given, not a list of rows.",
            hint='Write [("premise", "hypothesis")] or [{"premise": ..., "hypothesis": ...}].',
        )
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        rows = rows.to_dict("records")
    pairs, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            pairs.append(_pair(row, columns))
        except DataError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        total = f" ({len(problems)} rows cannot be used)" if len(problems) > 1 else ""
        raise DataError(
            f"{'; '.join(problems[:3])}{total}.", hint="Give each row as (premise, hypothesis), or as a dictionary."
        )
    return pairs


def _pair(row: Any, columns: Columns) -> tuple[str, str]:
    if isinstance(row, Mapping):
        names = [
            _text_key(row, name, column)
            for name, column in (("premise", columns.premise), ("hypothesis", columns.hypothesis))
        ]
        texts = [row[name] for name in names]
    elif isinstance(row, Sequence) and not isinstance(row, (str, bytes)) and len(row) == 2:
        names, texts = ["premise", "hypothesis"], list(row)
    else:
        raise DataError(f"it is {row!r:.60}, not a premise and a hypothesis")
    premise, hypothesis = (check_text(name, text) for name, text in zip(names, texts, strict=True))
    return premise, hypothesis


def _text_key(row: Mapping[str, Any], name: str, column: str) -> str:
    """The recipe's column where the row has it, else the input's own name."""
    if column in row:
        return column
    if name in row:
        return name
    raise DataError(f"it has no {column!r}; its keys are {', '.join(map(repr, row))}")
