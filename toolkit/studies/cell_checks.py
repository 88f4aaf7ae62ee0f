"""Checks of all cells before the first one starts: recipes, data, tokenizers, memory and evaluations."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.few_shot import draw_shots
from toolkit.data.sources import check_files_exist, parse_data
from toolkit.data.splits import load_splits
from toolkit.errors import RecipeError, ToolkitError
from toolkit.models.model_folder import model_fingerprint
from toolkit.recipe.loading import build_recipe, diff_recipes
from toolkit.recipe.schema import Recipe
from toolkit.runs.trained_run import TRAINING_SECTIONS
from toolkit.studies.cells import Cell, Measurement
from toolkit.studies.study_folder import StudyFolder

if TYPE_CHECKING:
    from toolkit.planning.preflight_report import PreflightReport


def check_cells(cells: Sequence[Cell], folder: StudyFolder) -> None:
    """Check all cells. Those that differ only in their seed are checked once, unless they have a run already.

    Raises:
        RecipeError: If cells cannot run, or the data or the model of a finished run have changed. The message has one
            line per cell.
    """
    from toolkit.api.preflight import preflight

    problems: list[str] = []
    checked: list[Recipe] = []
    evaluated: set[tuple[str, str, int | None]] = set()
    for cell in cells:
        without_seed = cell.recipe.model_copy(update={"seed": 0})
        is_finished = folder.run(cell.name).is_finished
        if without_seed in checked and not is_finished:
            problems += _evaluation_problems(cell, evaluated)
            continue
        try:
            report = preflight(cell.recipe)
        except ToolkitError as error:
            problems.append(f"{cell.name}: {error}")
            checked.append(without_seed)
            continue
        if report.fits is False and not is_finished:
            estimate = "toolkit.preflight(RECIPE).report() shows the estimate"
            problems.append(f"{cell.name}: does not fit in memory; {estimate}.")
        if is_finished:
            problems += [f"{cell.name}: {change}" for change in _changes(report, folder.run(cell.name).record)]
        problems += _evaluation_problems(cell, evaluated)
        checked.append(without_seed)
    if problems:
        hint = "No cell was started. Fix or remove these variants, or restore the files of finished runs."
        raise RecipeError("\n".join(dict.fromkeys(problems)), hint=hint)


def _changes(report: "PreflightReport", record: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each part of a finished run that is not what it was when the run was trained."""
    current, recorded = report.preflight.record()["data"], record.get("data", {})
    for name in ("train", "dev", "calibration", "eval"):
        ours, theirs = (rows.get(name, {}).get("fingerprint") for rows in (current, recorded))
        if ours != theirs:
            yield f"the rows of data.{name} have changed since this run was trained."
    fingerprint = record.get("model", {}).get("fingerprint")
    if fingerprint is not None and fingerprint != model_fingerprint(report.preflight.folder):
        yield "the base model has changed since this run was trained."


def _evaluation_problems(cell: Cell, checked: set[tuple[str, str, int | None]]) -> list[str]:
    """Return a line for each evaluation of a cell that cannot be made.

    Args:
        cell: The cell.
        checked: Variants, evaluations and sizes that were checked with another seed; those of the cell are added.
    """
    problems = []
    for measurement in cell.measurements:
        if (key := (measurement.variant, measurement.evaluation, measurement.train_size)) in checked:
            continue
        checked.add(key)
        try:
            _check_evaluation(cell.recipe, measurement)
        except ToolkitError as error:
            problems.append(f"{measurement.variant}, {measurement.evaluation}: {error}")
    return problems


def _check_evaluation(recipe: Recipe, measurement: Measurement) -> None:
    """Check the rows of an evaluation as it will read them.

    Raises:
        ToolkitError: If they cannot be evaluated.
    """
    request = measurement.request
    if recipe.model.kind == "encoder" and (request.model.name == "base" or request.mode == "free"):
        raise RecipeError("encoder runs support neither model: base nor mode: free.")
    changed = build_recipe(recipe.model_dump(mode="json"), "the recipe", measurement.overrides)
    for key in diff_recipes(recipe, changed):
        if key.startswith((*TRAINING_SECTIONS, "seed")):
            raise RecipeError(f"evaluation_overrides: {key} has no effect on a run that is already trained.")
    if request.data is not None:
        source = parse_data(request.data)
        check_files_exist(source)
        own = changed.data.eval
        # As in an evaluation, other files of the same type have the columns, label map and format of data.eval.
        if not str(source.path).startswith("embedded:"):
            update: dict[str, Any] = {"columns": own.columns, "label_map": own.label_map}
            if Path(str(source.path)).suffix == Path(str(own.path)).suffix:
                update["format"] = own.format
            source = source.model_copy(update=update)
        data = changed.data.model_copy(update={"eval": source, "eval_share": 0.0})
        changed = changed.model_copy(update={"data": data})
    if request.data is not None or request.shots or measurement.overrides:
        splits = load_splits(changed, is_external=request.data is not None, trained_recipe=recipe)
        draw_shots(splits.train, splits.eval, changed.task.labels, request.shots, changed.seed)
