"""The Python function that drafts a recipe for a file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from toolkit.api.arguments import to_path
from toolkit.data.column_roles import ColumnRoles, find_roles
from toolkit.data.columns import Row, has_column
from toolkit.data.messages import list_names, similar_name_hint
from toolkit.data.sources import describe, read_rows
from toolkit.data.splits import load_splits
from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import DataError, RecipeError
from toolkit.planning.recipe_draft import DraftSources, Language, draft_recipe, read_max_positions
from toolkit.recipe.data_section import Source
from toolkit.recipe.loading import build_recipe, parse_recipe
from toolkit.utils.atomic_io import atomic_path

DEFAULT_MODEL = "unsloth/Llama-3.2-1B-Instruct"
DEFAULT_EVAL_SHARE = 0.2


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was written for a file.

    Args:
        path: The path of the recipe.
        roles: The roles of the file's columns.
        todos: The number of places that are marked with TODO.
    """

    path: Path
    roles: ColumnRoles
    todos: int


def new_recipe(
    data: str | Path,
    label: str,
    *,
    eval: str | Path | None = None,
    eval_share: float | None = None,
    model: str = DEFAULT_MODEL,
    language: Language = "en",
    output: str | Path | None = None,
    format: Mapping[str, Any] | None = None,
) -> NewRecipe:
    """Write a commented recipe for a file. What cannot be inferred from the file is marked with TODO.

    Args:
        data: The file with the training rows.
        label: The column with the labels.
        eval: The file with the evaluation rows.
        eval_share: Instead of `eval`: the share of the rows to evaluate on; 0.2 if neither is given.
        model: The model to train.
        language: The language of the instruction: fr or en.
        output: The recipe to write. The default is the file's name with the extension .yaml.
        format: The parts of the file's format that cannot be detected, e.g. `{"delimiter": ";"}`.

    Raises:
        DataError: If the file cannot be read, lacks texts or labels, or its rows cannot be trained on.
        RecipeError: If the output exists, or an argument is invalid.
    """
    path = _output_path(data, output)
    source = _make_source(str(data), format)
    if eval is not None and eval_share is not None:
        raise RecipeError("eval and eval_share are both given.", hint="Leave one of them out.")
    if language not in get_args(Language):
        raise RecipeError(f"language is {language!r:.60}, which is not fr or en.", hint="Pass one of the two.")
    rows, columns = read_rows(source, [label])
    if not has_column(rows, label):
        raise DataError(
            f"{describe(source)} has no column {label!r}; its columns are {list_names(map(repr, columns))}.",
            hint=similar_name_hint(columns, label)
            or "Name one of them as the column with the labels. If these are values of a row, the file has no "
            "header: name its columns in format, {header: false, names: [...]}.",
        )
    roles = find_roles(rows, columns, label, describe(source))
    if eval is not None and roles.id is not None and not _has_column(str(eval), format, roles.id):
        roles = replace(roles, id=None)  # without a common id column, the rows of both files are numbered
    share = DEFAULT_EVAL_SHARE if eval_share is None else eval_share
    max_positions = read_max_positions(MODEL_FOLDER if model.startswith("embedded:") else Path(model))
    sources = DraftSources(
        str(data), format or {}, None if eval is None else str(eval), share, model, max_positions, str(path)
    )
    text = draft_recipe(roles, sources, language, _longest_row(rows, roles.inputs))
    # Checked before it is written, so that rows that cannot be used are refused here and not by the next command.
    load_splits(build_recipe(parse_recipe(text, path.name), path.name))
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return NewRecipe(path, roles, text.count("TODO:"))


def _output_path(data: str | Path, output: str | Path | None) -> Path:
    stem = re.sub(r"[*?\[\]]+", "_", Path(data).name.split(".")[0]) or "recipe"
    path = Path(f"{stem}.yaml") if output is None else to_path(output, "output")
    if path.exists():
        raise RecipeError(f"{path} already exists.", hint="Choose another output, or remove the file.")
    return path


def _make_source(data: str, format: Mapping[str, Any] | None) -> Source:
    # The recipe's own validation reports mistakes in the format, with the name of the key.
    values = {"task": {"labels": ["a", "b"], "system": None, "user": "{text}"}, "model": {"name": "none"}}
    source = {"path": data, "format": dict(format or {})}
    recipe = build_recipe(
        {**values, "data": {"train": source, "eval": {"path": "embedded:nli-fr"}}}, "the file's format"
    )
    return recipe.data.train


def _has_column(data: str, format: Mapping[str, Any] | None, column: str) -> bool:
    rows, _ = read_rows(_make_source(data, format), [column])
    return has_column(rows, column)


def _longest_row(rows: Sequence[Row], inputs: Sequence[str]) -> int:
    return max(sum(len(str(row.get(column) or "")) for column in inputs) for row in rows)
