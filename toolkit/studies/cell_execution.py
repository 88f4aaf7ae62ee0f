"""Execution of one cell: training its run and evaluating it."""

import time
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.recipe.loading import build_recipe
from toolkit.studies.study_folder import CellState, StudyFolder


def run_cell(folder: StudyFolder, specification: dict[str, Any]) -> None:
    """Train or resume the run of a cell unless it is finished, then run its missing evaluations.

    Args:
        folder: The folder of the study.
        specification: The cell, see `cell_specification`.

    Raises:
        ToolkitError: If training or an evaluation fails. The state of the cell has the message, too.
    """
    name, state = specification["name"], folder.state(specification["name"])
    started, earlier_seconds = time.monotonic(), state.seconds
    state.status, state.error, state.hint = "running", "", ""
    folder.save_state(name, state)
    try:
        _train_and_evaluate(folder, specification, state)
        state.status = "completed"
    except ToolkitError as error:
        state.status, state.error, state.hint = "failed", str(error), error.hint or ""
        raise
    finally:
        state.seconds = round(earlier_seconds + time.monotonic() - started, 2)
        folder.save_state(name, state)


def _train_and_evaluate(folder: StudyFolder, specification: dict[str, Any], state: CellState) -> None:
    from toolkit.api.run import open_run
    from toolkit.api.training import train

    name = specification["name"]
    run_folder = folder.run(name)
    if not run_folder.is_finished:
        recipe, has_recipe = build_recipe(specification["recipe"], name), run_folder.recipe_file.is_file()
        # A process that was killed while it replaced an older run leaves a folder without recipe.yaml.
        train(
            recipe,
            output_dir=run_folder.path,
            resume=has_recipe,
            overwrite=run_folder.is_taken and not has_recipe,
            progress=True,
        )
    run = open_run(run_folder.path)
    evaluated = {evaluation.name for evaluation in run.evaluations}
    keys = {measurement["key"] for measurement in specification["measurements"]}
    for measurement in specification["measurements"]:
        if state.evaluations.get(key := measurement.pop("key")) not in evaluated:
            model = measurement.pop("model")
            finished = run.evaluate(model, **measurement, progress=True).name
            # The folder held results for the file's previous contents. Drop their key, so that these contents are
            # evaluated again if they are restored.
            kept = {old: value for old, value in state.evaluations.items() if old in keys or value != finished}
            state.evaluations = kept | {key: finished}
            folder.save_state(name, state)
