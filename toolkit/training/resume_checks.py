"""Checks that a resumed run would reproduce the uninterrupted one.

This module imports nothing slow, so that a changed recipe or package version is reported at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import RunError
from toolkit.recipe.loading import diff_recipes, load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.run_paths import check_no_links, check_run_path
from toolkit.runs.versions import package_versions

# Fields of run.json, by dotted path. Each group has its own hint.
_MACHINE_FIELDS = ("device", "precision.name")
_MODEL_FIELDS = ("model.commit", "model.fingerprint")
_DATA_FIELDS = (
    "data.train.fingerprint",
    "data.dev.fingerprint",
    "data.calibration.fingerprint",
    "data.eval.fingerprint",
)
# The digest of the training rows as token ids. It also changes when a chat template writes today's date.
_TOKEN_FIELDS = ("tokens_sha256",)
_PROCESS_FIELDS = ("processes",)
_PLAN_FIELDS = (
    "batching.name", "batch_size", "steps", "micro_batch_size", "batch_tokens", "gradient_checkpointing",
    "optimizer", "tree_attention", "dense_nodes", "eval_steps",
)  # fmt: skip
_START_OVER = "or start over with overwrite=True or another output_dir."


def check_resumable(recipe: Recipe, run: RunFolder) -> None:
    """Check everything that can be checked before the data and the model are read.

    Raises:
        RunError: If there is no run to resume, its path is not allowed, its run.json is damaged, or the recipe or a
            package version has changed.
    """
    if not run.recipe_file.is_file():
        raise RunError(f"{run.path} contains no run to resume.", hint="Leave out resume=True.")
    if run.record.get("imported"):
        raise RunError(
            f"{run.path} was imported from an adapter that another tool trained, so there is no training to resume.",
            hint="Leave out resume=True, and choose another output_dir to train an adapter of your own.",
        )
    if run.record.get("averaged"):
        raise RunError(
            f"{run.path} is the average of other runs, so there is no training to resume.",
            hint="Resume those runs, or leave out resume=True and choose another output_dir.",
        )
    check_run_path(run.path)
    check_no_links([run.checkpoints, run.adapter])
    if (saved := load_recipe(run.recipe_file)) != recipe:
        raise RunError(
            f"Cannot resume {run.path}: the recipe has changed since the run started "
            f"({', '.join(diff_recipes(saved, recipe))}).",
            hint=f"Resume with the same recipe and overrides, {_START_OVER}",
        )
    versions = package_versions()
    fields = [f"versions.{name}" for name in versions]
    _check_fields(run, {"versions": versions}, fields, f"Install the versions that {run.run_json} lists, {_START_OVER}")


def check_same_data(run: RunFolder, current: Mapping[str, Any]) -> None:
    """Check that rows, model, prompts, device and precision are those that the run was started with.

    Args:
        run: The run to resume.
        current: The result of `Preflight.record` today.

    Raises:
        RunError: If a field differs from run.json. The message names it.
    """
    _check_fields(run, current, _DATA_FIELDS, f"Restore the rows that the run was started with, {_START_OVER}")
    _check_fields(run, current, _MODEL_FIELDS, f"Restore the model that the run was started with, {_START_OVER}")
    # After rows and model, since either of them changes the tokens too and has the more helpful message.
    _check_fields(
        run,
        current,
        _TOKEN_FIELDS,
        f"Restore the prompts that the run was started with (task.date_string sets their date), {_START_OVER}",
    )
    _check_fields(
        run,
        current,
        _MACHINE_FIELDS,
        f"Resume on the same kind of device (OMP_NUM_THREADS sets the number of CPU threads), {_START_OVER}",
    )


def check_same_plan(run: RunFolder, current: Mapping[str, Any]) -> None:
    """Check that the optimizer steps are planned as they were when the run started.

    Args:
        run: The run to resume.
        current: The fields of the plan.

    Raises:
        RunError: If a field differs from run.json. The message names it.
    """
    _check_fields(run, current, _PROCESS_FIELDS, f"Resume with the same number of processes, {_START_OVER}")
    # Of the same recipe and processes, these fields change only with the device, the packages or an edit of run.json.
    hint = f"Resume on the same kind of device, and restore {run.run_json} if it was edited, {_START_OVER}"
    _check_fields(run, current, _PLAN_FIELDS, hint)


def _check_fields(run: RunFolder, current: Mapping[str, Any], fields: Iterable[str], hint: str) -> None:
    # A run that was killed before it wrote run.json has an empty record. It took no steps, so any value will do.
    # Runs of earlier versions did not record their attention, which was dense.
    recorded = run.record and {"tree_attention": "dense", "dense_nodes": 0, **run.record}
    differing = [
        f"{field} {recorded_value!r} (now {current_value!r})"
        for field in fields
        if recorded
        and (recorded_value := _nested_value(recorded, field)) != (current_value := _nested_value(current, field))
    ]
    if differing:
        raise RunError(f"Cannot resume {run.path}: it was started with {' and '.join(differing)}.", hint=hint)


def _nested_value(record: Any, field: str) -> Any:
    for key in field.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record
