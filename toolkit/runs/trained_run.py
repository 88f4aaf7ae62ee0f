"""A run that was trained, opened to be evaluated, asked or exported."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.recipe.loading import Overrides, build_recipe, differences, parse_recipe, read_recipe_text
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run's files, and its recipe as the caller uses it.

    Args:
        folder: the files.
        recipe_text: what recipe.yaml holds.
        saved_recipe: the recipe that the run was trained with, from recipe.yaml.
        recipe: the same with what the caller overrides.
    """

    folder: RunFolder
    recipe_text: str
    saved_recipe: Recipe
    recipe: Recipe

    @classmethod
    def open(cls, path: Path, overrides: Overrides = ()) -> "TrainedRun":
        """Open the folder of a finished run; recipe.yaml is read once.

        Raises:
            RunError: there is no such folder, or no finished run in it.
            RecipeError: recipe.yaml is damaged, or an override cannot be used.
        """
        folder = RunFolder.open(path)
        text, name = read_recipe_text(folder.recipe_file), folder.recipe_file.name
        values = parse_recipe(text, str(folder.recipe_file))
        saved = build_recipe(values, name)
        return cls(folder, text, saved, build_recipe(values, name, overrides) if overrides else saved)

    def with_recipe(self, recipe: Recipe) -> "TrainedRun":
        """Return the same run, used with another recipe."""
        return replace(self, recipe=recipe)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json holds; read once."""
        return self.folder.record

    @property
    def overridden(self) -> dict[str, Any]:
        """The dotted keys in which `recipe` differs from what the run was trained with, with their values."""
        return differences(self.saved_recipe, self.recipe)
