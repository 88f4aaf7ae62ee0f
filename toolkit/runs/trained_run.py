"""A finished run that is opened for evaluation, prediction or export."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.recipe.loading import Overrides, build_recipe, diff_recipes, parse_recipe, read_recipe_text
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder, and its recipe with the caller's overrides.

    Args:
        folder: The folder of the run.
        recipe_text: The content of recipe.yaml.
        saved_recipe: The recipe in recipe.yaml, with which the run was trained.
        recipe: The saved recipe with the caller's overrides.
    """

    folder: RunFolder
    recipe_text: str
    saved_recipe: Recipe
    recipe: Recipe

    @classmethod
    def open(cls, path: Path, overrides: Overrides = ()) -> "TrainedRun":
        """Open the folder of a finished run; recipe.yaml is read once.

        Raises:
            RunError: If there is no such folder, or if it is not a finished run.
            RecipeError: If recipe.yaml is damaged, or an override is invalid.
        """
        folder = RunFolder.open(path)
        # Read once, so that a report shows the text of the recipe in use even if the file changes meanwhile.
        text, name = read_recipe_text(folder.recipe_file), folder.recipe_file.name
        values = parse_recipe(text, str(folder.recipe_file))
        saved = build_recipe(values, name)
        return cls(folder, text, saved, build_recipe(values, name, overrides) if overrides else saved)

    def with_recipe(self, recipe: Recipe) -> "TrainedRun":
        """Return the same run with another recipe in use."""
        return replace(self, recipe=recipe)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of run.json, which is read once."""
        return self.folder.record

    @property
    def overridden(self) -> dict[str, Any]:
        """The dotted keys in which `recipe` differs from the saved recipe, with their values in `recipe`."""
        return diff_recipes(self.saved_recipe, self.recipe)
