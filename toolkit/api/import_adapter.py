"""The Python function that makes a run of an adapter that another tool trained."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.api.arguments import check_output_dir, to_path
from toolkit.api.imports import import_backend
from toolkit.api.recipes import resolve_recipe
from toolkit.api.run import Run, open_run
from toolkit.data.sources import check_files_exist
from toolkit.errors import RecipeError, RunError
from toolkit.recipe.loading import Overrides, build_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.utils.progress import Progress, show_progress

if TYPE_CHECKING:
    from toolkit.models.foreign_adapter import ForeignAdapter

_SHARES = ("calibration_share", "dev_share")
_VALIDATION_KEYS = ("eval_steps", "keep", "best_metric", "early_stopping_patience")

logger = logging.getLogger(__name__)


def import_adapter(
    adapter: str | Path,
    recipe: str | Path | Recipe,
    output_dir: str | Path,
    *,
    base: str | Path | None = None,
    overrides: Overrides = (),
    overwrite: bool = False,
    progress: Progress = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Make a run of a LoRA adapter that another tool trained, to evaluate, compare and export it.

    Args:
        adapter: The folder that PEFT's save_pretrained wrote, a checkpoint of a trainer, or a Hub id.
        recipe: A YAML file, or a recipe. Its data.train should be the rows that the adapter was trained on. Its lora
            section is replaced by the adapter's own values.
        output_dir: The run folder.
        base: The folder of the base model, if it is not where the recipe says.
        overrides: Changes by dotted keys, e.g. `{"model.load_in_4bit": True}`.
        overwrite: Replace an existing run.
        progress: True for a progress bar on standard error, or a callback.
        command: The command line to record in run.json when a script calls this function.

    Raises:
        ToolkitError: If the adapter is of another kind, does not fit the base model, or the recipe cannot work.
    """
    checked = resolve_recipe(recipe, overrides)
    run = RunFolder(to_path(output_dir, "output_dir"))
    check_output_dir(run, overwrite=overwrite)
    base_path = None if base is None else to_path(base, "base")
    source = str(to_path(adapter, "adapter"))
    check_files_exist(*checked.data.sources)
    from toolkit.models.foreign_adapter import find_adapter, read_foreign_adapter

    foreign = read_foreign_adapter(find_adapter(source), checked.model.kind)
    if foreign.folder.resolve().is_relative_to(run.path.resolve()):
        raise RunError(
            f"The adapter {foreign.folder} is in the run folder {run.path}, whose files would be replaced first.",
            hint="Choose another folder with output_dir.",
        )
    imported = _describe_adapter(checked, foreign, overrides)
    import_backend()
    from toolkit.training.adapter_import import import_run

    with show_progress(progress):
        import_run(foreign, imported, run, source=source, base=base_path, overwrite=overwrite, command=command)
    return open_run(run.path, base=base_path)  # from the files, so that this is the run that a later process will see


def _describe_adapter(recipe: Recipe, adapter: "ForeignAdapter", overrides: Overrides) -> Recipe:
    """Return the recipe with the adapter's own lora section and without shares of data.train that are held out.

    Nobody knows whether the rows that would be held out were among those that the adapter was trained on. Nothing is
    trained, so no step is chosen by dev rows either.

    Raises:
        RecipeError: If an override contradicts the adapter, or the recipe cannot hold its values.
    """
    given: dict[str, Any] = {f"lora.{name}": getattr(recipe.lora, name, None) for name in adapter.lora}
    taken: dict[str, Any] = {f"lora.{name}": value for name, value in adapter.lora.items()}
    if set(given["lora.target_modules"] or ()) == set(taken["lora.target_modules"]):
        taken["lora.target_modules"] = list(given["lora.target_modules"])  # in the recipe's order
    given |= {f"data.{name}": getattr(recipe.data, name) for name in _SHARES}
    taken |= {f"data.{name}": 0.0 for name in _SHARES}
    explicit = _overridden_keys(overrides)
    for key, value in taken.items():
        before = list(given[key]) if isinstance(given[key], tuple) else given[key]
        if before == value:
            continue
        if explicit & {key, key.split(".")[0]}:
            reason = (
                f"the adapter has {value!r}"
                if key.startswith("lora.")
                else "the adapter may have been trained on the held-out rows"
            )
            raise RecipeError(
                f"overrides: {key} is {before!r}, but {reason}.", hint="Leave it out: the adapter is trained already."
            )
        logger.info("%-11s %s: %s instead of %s, the value in the recipe", "adapter", key, value, before)
    lora = {key.removeprefix("lora."): value for key, value in taken.items() if key.startswith("lora.")}
    values = recipe.model_dump(mode="json")
    data = {**values["data"], **dict.fromkeys(_SHARES, 0.0)}
    training = {name: value for name, value in values["training"].items() if name not in _VALIDATION_KEYS}
    return build_recipe({**values, "lora": lora, "data": data, "training": training}, "the adapter")


def _overridden_keys(overrides: Overrides) -> set[str]:
    if isinstance(overrides, Mapping):
        return set(overrides)
    return {assignment.partition("=")[0].strip() for assignment in overrides}
