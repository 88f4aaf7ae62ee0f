"""May a run be gone on with? Only where it would end in the weights that it would have had.

Nothing here takes seconds to import: what the recipe and the installed packages refuse is refused at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from toolkit.errors import RunError
from toolkit.recipe import Recipe
from toolkit.recipe_file import differences, load_recipe
from toolkit.run_folder import RunFolder
from toolkit.run_place import refuse_bad_place, refuse_links
from toolkit.versions import package_versions

_MACHINE = ("device", "precision.name")
_MODEL = ("model.commit", "model.fingerprint")
_DATA = ("data.train.fingerprint", "data.calibration.fingerprint", "data.eval.fingerprint")
_TOKENS = ("tokens_sha256",)
_PLAN = (
    "batching.name", "batch_size", "processes", "steps", "micro_batch_size", "batch_tokens", "group_by_premise",
    "gradient_checkpointing", "optimizer",
)  # fmt: skip
_ANEW = "or start anew with --overwrite or --output-dir."


def refuse_other_run(recipe: Recipe, run: RunFolder) -> None:
    """Refuse what recipe, run folder and packages alone tell.

    Raises:
        RunError: there is no run, it stands where none may be, its run.json is damaged, or recipe or package versions
            differ.
    """
    if not run.recipe.is_file():
        raise RunError(f"{run.path} holds no run that could be resumed.", hint="Leave out --resume.")
    refuse_bad_place(run.path)
    refuse_links([run.checkpoints, run.adapter])
    if (saved := load_recipe(run.recipe)) != recipe:
        raise RunError(
            f"The recipe differs from that of {run.path} in {', '.join(differences(saved, recipe))}, "
            "so the run cannot be resumed.",
            hint=f"Resume with the same recipe and overrides, {_ANEW}",
        )
    versions = package_versions()
    fields = [f"versions.{name}" for name in versions]
    _refuse(run, {"versions": versions}, fields, f"Install the versions that {run.run_json} names, {_ANEW}")


def refuse_other_data(run: RunFolder, now: Mapping[str, Any]) -> None:
    """Refuse other rows, another model or tokenizer, another device or another precision.

    Args:
        run: the run.
        now: what `Preflight.record` finds today.

    Raises:
        RunError: naming what differs.
    """
    _refuse(run, now, _DATA, f"Bring back the rows that the run began with, {_ANEW}")
    _refuse(run, now, _MODEL, f"Bring back the model that the run began with, {_ANEW}")
    _refuse(run, now, _TOKENS, f"Bring back the prompts that it began with, or set task.date_string, {_ANEW}")
    _refuse(run, now, _MACHINE, f"Go on where it began (OMP_NUM_THREADS sets a CPU's threads), {_ANEW}")


def refuse_other_plan(run: RunFolder, now: Mapping[str, Any]) -> None:
    """Refuse steps that would be made otherwise; `now` holds a plan's fields.

    Raises:
        RunError: naming what differs.
    """
    _refuse(run, now, _PLAN, f"Start as many processes as then, {_ANEW}")


def _refuse(run: RunFolder, now: Mapping[str, Any], fields: Iterable[str], hint: str) -> None:
    begun = run.record  # of a run that was killed as it began, empty
    changed = [
        f"{field} ({then!r} then, {today!r} now)"
        for field in fields
        if begun and (then := _under(begun, field)) != (today := _under(now, field))
    ]
    if changed:
        raise RunError(
            f"{run.path} was begun with another {' and another '.join(changed)}: it cannot go on.", hint=hint
        )


def _under(record: Any, field: str) -> Any:
    for key in field.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record
