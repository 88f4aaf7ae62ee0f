"""Reading and validation of study files."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe.loading import parse_recipe, read_recipe_text
from toolkit.recipe.mistakes import describe_mistakes
from toolkit.studies.schema import EvaluationSection, RowSection, SearchSection, Study, expand_grids


def load_study(path: Path) -> Study:
    """Load a study from a YAML file and validate it.

    In the result, the paths of recipes are absolute (in the file they are relative to it), and grids are rows.

    Raises:
        RecipeError: If the file is not a valid study. The message has one line per mistake.
    """
    values = parse_recipe(read_recipe_text(path), str(path))
    if "rows" not in values and {"task", "data", "model"} & set(values):
        raise RecipeError(f"{path} is a recipe, not a study.", hint="Train it with: toolkit.train(RECIPE)")
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        keys = [key for key, _ in study_keys()]
        raise RecipeError(
            describe_mistakes(error, path.name, keys, "study"), hint="docs/studies.md describes every key."
        ) from error
    rows = [row.model_copy(update={"recipe": _resolve(row.recipe, path)}) for row in expand_grids(study.rows)]
    return study.model_copy(update={"recipe": _resolve(study.recipe, path), "rows": tuple(rows)})


def _resolve(recipe: str | None, study_file: Path) -> str | None:
    return None if recipe is None else str((study_file.parent / recipe).resolve())


def study_keys() -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the description of every key of a study; `*` is the name of an evaluation."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("", Study),
        ("evaluations.*.", EvaluationSection),
        ("rows.", RowSection),
        ("search.", SearchSection),
    ]
    for prefix, section in sections:
        for name, field in section.model_fields.items():
            yield f"{prefix}{name}", field.description or ""
