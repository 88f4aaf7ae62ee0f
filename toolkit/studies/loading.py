"""Reading and validation of study files."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe.loading import check_characters, parse_recipe, read_recipe_text
from toolkit.recipe.mistakes import describe_mistakes
from toolkit.studies.schema import EvaluationSection, SearchSection, Study, VariantSection, expand_grids


def load_study(path: Path) -> Study:
    """Load a study from a YAML file and validate it.

    In the result, the paths of recipes are absolute (in the file they are relative to it), and grids are variants.

    Raises:
        RecipeError: If the file is not a valid study. The message has one line per mistake.
    """
    values = parse_recipe(read_recipe_text(path), str(path))
    check_characters(values, path.name)
    if "variants" not in values and {"task", "data", "model"} & set(values):
        raise RecipeError(f"{path} is a recipe, not a study.", hint="Train it with: toolkit.train(RECIPE)")
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        keys = [key for key, _ in study_keys()]
        raise RecipeError(
            describe_mistakes(error, path.name, keys, "study"), hint="docs/studies.md describes every key."
        ) from error
    variants = tuple(
        variant.model_copy(update={"recipe": _resolve(variant.recipe, path)})
        for variant in expand_grids(study.variants)
    )
    return study.model_copy(update={"recipe": _resolve(study.recipe, path), "variants": variants})


def _resolve(recipe: str | None, study_file: Path) -> str | None:
    return None if recipe is None else os.path.realpath(study_file.parent / recipe)


def study_keys() -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the description of every key of a study; `*` is the name of an evaluation."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("", Study),
        ("evaluations.*.", EvaluationSection),
        ("variants.", VariantSection),
        ("search.", SearchSection),
    ]
    for prefix, section in sections:
        for name, field in section.model_fields.items():
            yield f"{prefix}{name}", field.description or ""
