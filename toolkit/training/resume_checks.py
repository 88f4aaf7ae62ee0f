"""May a run be gone on with? Only where it would end in the weights that it would have had.

Nothing here takes seconds to import: what the recipe and the installed packages refuse is refused at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import RunError
from toolkit.recipe.loading import differences, load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.run_paths import check_no_links, check_run_path
from toolkit.runs.versions import package_versions

_MACHINE = ("device", "precision.name")
_MODEL = ("model.commit", "model.fingerprint")
_DATA = ("data.train.fingerprint", "data.calibration.fingerprint", "data.eval.fingerprint")
_TOKENS = ("tokens_sha256",)
_PLAN = (
    "batching.name", "batch_size", "processes", "steps", "micro_batch_size", "batch_tokens", "group_by_premise",
    "gradient_checkpointing", "optimizer",
)  # fmt: skip
_START_OVER = "or start anew with overwrite=True or output_dir."


def check_same_run(recipe: Recipe, run: RunFolder) -> None:
    """Refuse what recipe, run folder and packages alone tell.

    Raises:
        RunError: there is no run, it stands where none may be, its run.json is damaged, or recipe or package versions
            differ.
    """
    if not run.recipe_file.is_file():
        raise RunError(f"{run.path} holds no run that could be resumed.", hint="Leave out resume=True.")
    check_run_path(run.path)
    check_no_links([run.checkpoints, run.adapter])
    if (saved := load_recipe(run.recipe_file)) != recipe:
        raise RunError(
            f"The recipe differs from that of {run.path} in {', '.join(differences(saved, recipe))}, "
            "so the run cannot be resumed.",
            hint=f"Resume with the same recipe and overrides, {_START_OVER}",
        )
    versions = package_versions()
    fields = [f"versions.{name}" for name in versions]
    _check_fields(run, {"versions": versions}, fields, f"Install the versions that {run.run_json} names, {_START_OVER}")


def check_same_data(run: RunFolder, current: Mapping[str, Any]) -> None:
    """Refuse other rows, another model or tokenizer, another device or another precision.

    Args:
        run: the run.
        current: what `Preflight.record` finds today.

    Raises:
        RunError: naming what differs.
    """
    _check_fields(run, current, _DATA, f"Bring back the rows that the run began with, {_START_OVER}")
    _check_fields(run, current, _MODEL, f"Bring back the model that the run began with, {_START_OVER}")
    _check_fields(
        run, current, _TOKENS, f"Bring back the prompts that it began with, or set task.date_string, {_START_OVER}"
    )
    _check_fields(run, current, _MACHINE, f"Go on where it began (OMP_NUM_THREADS sets a CPU's threads), {_START_OVER}")


def check_same_plan(run: RunFolder, current: Mapping[str, Any]) -> None:
    """Refuse steps that would be made otherwise; `current` holds a plan's fields.

    Raises:
        RunError: naming what differs.
    """
    _check_fields(run, current, _PLAN, f"Start as many processes as then, {_START_OVER}")


def _check_fields(run: RunFolder, current: Mapping[str, Any], fields: Iterable[str], hint: str) -> None:
    recorded = run.record  # of a run that was killed as it began, empty
    differing = [
        f"{field} ({recorded_value!r} then, {current_value!r} now)"
        for field in fields
        if recorded
        and (recorded_value := _nested_value(recorded, field)) != (current_value := _nested_value(current, field))
    ]
    if differing:
        raise RunError(
            f"{run.path} was begun with another {' and another '.join(differing)}: it cannot go on.", hint=hint
        )


def _nested_value(record: Any, field: str) -> Any:
    for key in field.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record
