"""The inputs of a row, named by the placeholders of the prompt, and the columns that contain them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

RESERVED = ("label", "id", "prediction", "predictions", "probabilities", "answer", "rows")
"""Names that have another meaning in data files or in predictions, so that no input can have them."""

NLI_INPUTS = ("premise", "hypothesis")


@dataclass(frozen=True)
class RowColumns:
    """The columns of a source.

    Args:
        inputs: The column of each input, in the order of the inputs.
        label: The column with the label.
        id: The column with the id; None if rows are numbered.
    """

    inputs: Mapping[str, str]
    label: str
    id: str | None


def input_names(user: str) -> tuple[str, ...]:
    """Return the names of the placeholders of `task.user`, in the order of their first occurrence.

    A premise comes before its hypothesis wherever they are written, as in the files of NLI datasets.
    """
    names = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(user) if name is not None))
    return NLI_INPUTS if set(names) == set(NLI_INPUTS) else names


def find_placeholder_error(user: str) -> str | None:
    """Return a sentence for a mistake in the placeholders of `task.user`, or None."""
    try:
        placeholders = [placeholder for placeholder in Formatter().parse(user) if placeholder[1] is not None]
    except ValueError as error:
        return f"{error}; double each literal brace"
    if not placeholders:
        return "has no placeholder, so every prompt would be the same; name the inputs of a row, e.g. {text}"
    for _, name, spec, conversion in placeholders:
        # "{text!r}" or "{text:>9}" would alter the text, and "{text.x}" or "{0}" could not be filled in.
        written = f"{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
        if written != name or not name.isidentifier():
            return f"{{{written}}} is not a name; write an input as {{text}}, and double each literal brace"
        if name in RESERVED:
            return f"{{{name}}} is reserved; give the input another name, and map it to its column in data.columns"
    return None


def find_columns_errors(columns: Mapping[str, str | None], inputs: Sequence[str]) -> list[str]:
    """Return a sentence for each mistake in a mapping from inputs, label and id to columns."""
    mistakes, keys = [], (*inputs, "label", "id")
    for name, column in columns.items():
        if name not in keys:
            similar = difflib.get_close_matches(name, keys, n=1, cutoff=0.7)
            suggestion = f"did you mean {similar[0]}?" if similar else f"its keys are {', '.join(keys)}"
            mistakes.append(f"{name!r} is not an input of task.user; {suggestion}")
        elif column is None and name != "id":
            mistakes.append(f"{name} is null; give the name of a column")
    used = [name for name, column in columns.items() if list(columns.values()).count(column) > 1]
    if len(used) > 1 and "id" not in used and not mistakes:
        mistakes.append(f"{used[0]} and {used[1]} share the column {columns[used[0]]!r}; give each its own")
    return mistakes


def merge_columns(inputs: Sequence[str], common: Mapping[str, str | None], own: Mapping[str, str | None]) -> RowColumns:
    """Return the columns of a source: its own, else the common ones, else those of the same name.

    Args:
        inputs: The names of the inputs.
        common: The columns of all sources, `data.columns`.
        own: The columns of this source.
    """
    merged = {**common, **own}
    return RowColumns(
        {name: merged.get(name) or name for name in inputs}, merged.get("label") or "label", merged.get("id")
    )


def name_texts(name: str) -> str:
    """Return the plural for the texts of an input: premises, hypotheses, texts, or e.g. question texts."""
    return {"premise": "premises", "hypothesis": "hypotheses", "text": "texts"}.get(name, f"{name} texts")


def name_rows(inputs: Iterable[str]) -> str:
    """Return the plural for rows with these inputs: pairs for natural language inference, otherwise rows."""
    return "pairs" if tuple(inputs) == NLI_INPUTS else "rows"
