"""Recipes as arguments of the API."""

from pathlib import Path

from toolkit.errors import RecipeError
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.recipe.schema import Recipe


def resolve_recipe(recipe: str | Path | Recipe, overrides: Overrides = ()) -> Recipe:
    """Return a validated recipe, given by path or as an object, with overrides applied.

    Raises:
        RecipeError: If the recipe is invalid; the message has one line per mistake.
    """
    if isinstance(recipe, Recipe):
        # Built again from plain values, because an override can contradict keys that it does not change.
        return build_recipe(recipe.model_dump(mode="json"), "the recipe", overrides) if overrides else recipe
    if isinstance(recipe, (str, Path)):
        return load_recipe(Path(recipe), overrides)
    raise RecipeError(
        f"The recipe must be a path or a Recipe, not a {type(recipe).__name__}.", hint="Pass the path of a .yaml file."
    )
