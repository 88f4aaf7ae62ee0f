"""Recipes as the API accepts them."""

from pathlib import Path

from toolkit.errors import RecipeError
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.recipe.schema import Recipe


def resolve_recipe(recipe: str | Path | Recipe, overrides: Overrides = ()) -> Recipe:
    """Return a validated recipe from a file's path, or from a recipe, with changes.

    Raises:
        RecipeError: with one line for each mistake.
    """
    if isinstance(recipe, Recipe):
        return build_recipe(recipe.model_dump(mode="json"), "the recipe", overrides) if overrides else recipe
    if isinstance(recipe, (str, Path)):
        return load_recipe(Path(recipe), overrides)
    raise RecipeError(
        f"A recipe is a path or a Recipe, not a {type(recipe).__name__}.", hint="Give the name of a .yaml file."
    )
