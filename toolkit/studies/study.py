"""Execution of a study, from its file to its table and page."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.api.arguments import to_path
from toolkit.errors import RunError, StudyError
from toolkit.recipe.loading import Overrides
from toolkit.runs.run_folder import utc_now
from toolkit.studies.cell_checks import check_cells
from toolkit.studies.cells import Cell, make_cells
from toolkit.studies.loading import load_study
from toolkit.studies.runner import CellRunner
from toolkit.studies.schema import Study
from toolkit.studies.search import Search
from toolkit.studies.study_folder import StudyFolder
from toolkit.utils.atomic_io import write_json, write_text
from toolkit.utils.formatting import join_names
from toolkit.utils.progress import Progress, show_progress
from toolkit.utils.storage import folder_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyResult:
    """The results of a study.

    Args:
        folder: The folder of the study.
        record: The contents of study.json.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def page(self) -> Path:
        """The page for people, study.html."""
        return StudyFolder(self.folder).page

    @property
    def results(self) -> list[dict[str, Any]]:
        """An entry for each variant, evaluation and training set size."""
        return list(self.record["results"])

    def report(self) -> str:
        """Return the results as text for a terminal."""
        from toolkit.studies.text_report import text_report

        return text_report(self.record)


def run_study(
    study: str | Path,
    output_dir: str | Path | None = None,
    *,
    overrides: Overrides = (),
    jobs: int = 1,
    ray: str | None = None,
    progress: Progress = False,
) -> StudyResult:
    """Run all cells of a study and write study.html, study.json and study.csv.

    Each cell is an ordinary run folder in runs/. Finished cells are kept and interrupted ones resume, so the same call
    continues a study that was stopped.

    Args:
        study: A YAML file, see docs/studies.md.
        output_dir: The folder of the study. The default is `outputs/studies/<file name of the study>`.
        overrides: Changes to all recipes by dotted keys.
        jobs: The number of cells to run at a time. They share CPU cores, memory and GPU.
        ray: The address of a Ray cluster to run the cells on, or local, instead of `jobs`; see docs/scale.md.
        progress: True for a progress bar on standard error, or a callback.

    Returns:
        The results.

    Raises:
        StudyError: If cells failed, or all trials of a search. The other cells were run, and the page lists the errors.
        ToolkitError: If the study, a recipe or the folder is invalid (before any cell starts), or if a result cannot be
            read.
    """
    path = to_path(study, "study")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise RunError(
            f"jobs is {jobs!r}, but must be an integer of at least 1.", hint="Omit it to run one cell at a time."
        )
    if ray is not None and jobs != 1:
        raise RunError(f"jobs is {jobs}, but Ray decides how many cells run at a time.", hint="Leave out jobs or ray.")
    loaded = load_study(path)
    cells = make_cells(loaded, overrides)
    folder = StudyFolder(default_study_dir(path) if output_dir is None else to_path(output_dir, "output_dir"))
    folder.check(path.stem, cells)
    search = None if loaded.search is None else Search(loaded, folder, overrides)
    with show_progress(progress):
        check_cells([*cells, *(search.boundary_cells() if search else [])], folder)
        if search:
            search.check()
        runner = _make_runner(folder, jobs, ray)
        folder.create(path.stem)
        with folder_lock(folder.path):
            result = _run_cells(path.stem, loaded, cells, runner, search)
    _check_complete(result)
    return result


def _run_cells(name: str, study: Study, cells: list[Cell], runner: CellRunner, search: Search | None) -> StudyResult:
    try:
        if search:
            study = study.model_copy(update={"variants": (*study.variants, *search.run(runner))})
            cells = make_cells(study, search.overrides)
            runner.folder.check(name, cells)
        runner.run(cells)
    finally:  # after Ctrl-C, the page shows what there is
        result = write_results(runner.folder, name, study, cells, search)
    return result


def _check_complete(result: StudyResult) -> None:
    page, cells, search = result.page, result.record["cells"], result.record["search"]
    if failed := [cell["name"] for cell in cells if cell["status"] != "completed"]:
        raise StudyError(
            f"{len(failed)} of {len(cells)} cells failed: {join_names(failed, 'and')}.",
            hint=f"{page} lists the reasons. Run it again to retry only the failed cells.",
        )
    if search and not any(trial["state"] == "completed" for trial in search["trials"]):
        raise StudyError(
            f"None of the {len(search['trials'])} trials of the search was completed, so there are no finalists.",
            hint=f"{page} lists them; the reasons are in logs/. Increase search.trials, or remove search.db and "
            "search.json to start the search again.",
        )
    if problems := result.record["problems"]:
        raise StudyError(
            "\n".join(problems), hint=f"{page} shows all other results. Correct the files, and run it again."
        )


def _make_runner(folder: StudyFolder, jobs: int, ray: str | None) -> CellRunner:
    if ray is None:
        return CellRunner(folder, jobs)
    from toolkit.studies.ray_runner import RayRunner

    return RayRunner(folder, ray)


def default_study_dir(study: Path) -> Path:
    """Return the default folder of a study, derived from its file name."""
    return Path("outputs") / "studies" / study.stem


def write_results(
    folder: StudyFolder, name: str, study: Study, cells: Sequence[Cell], search: Search | None = None
) -> StudyResult:
    """Write study.json, study.csv and study.html from the finished evaluations."""
    from toolkit.studies.page import render
    from toolkit.studies.results import add_baselines, fit_learning_curves, gather_results, results_csv, summarize

    results = gather_results(folder, study, cells)
    curves = fit_learning_curves(results)
    if cells[0].recipe.evaluation.baselines:
        add_baselines(results)
    entries = summarize(results)
    record = {
        "name": name,
        "written": utc_now(),
        "study": study.model_dump(mode="json"),
        "cells": [_describe_cell(folder, cell) for cell in cells],
        "results": entries,
        "learning_curves": curves,
        "search": search.record() if search else None,
        "problems": results.problems,
    }
    write_json(folder.record, record)
    write_text(folder.csv, results_csv(entries))
    write_text(folder.page, render(record))
    return StudyResult(folder.path, record)


def _describe_cell(folder: StudyFolder, cell: Cell) -> dict[str, Any]:
    state = folder.state(cell.name)
    return {
        "name": cell.name,
        "run": f"runs/{cell.name}",
        "seed": cell.recipe.seed,
        "train_size": cell.recipe.data.train_rows,
        "status": state.status,
        "seconds": state.seconds,
        "error": state.error,
        "hint": state.hint,
    }
