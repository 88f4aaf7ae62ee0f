"""Running of a study, from its file to its table and page."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.api.arguments import to_path
from toolkit.errors import RunError, StudyError
from toolkit.recipe.loading import Overrides
from toolkit.runs.run_folder import utc_now
from toolkit.studies.cells import Cell, check_cells, make_cells
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
        """An entry for each row of the table, evaluation and number of training rows."""
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
    progress: Progress = False,
) -> StudyResult:
    """Run all cells of a study and write study.html, study.json and study.csv.

    Each cell is an ordinary run folder in runs/. Finished cells are kept and interrupted ones resume, so the same call
    continues a study that was stopped.

    Args:
        study: A YAML file, see docs/studies.md.
        output_dir: The folder of the study. The default is `outputs/studies/<file name of the study>`.
        overrides: Changes to all recipes by dotted keys.
        jobs: The number of cells to run at a time. They share the CPU cores.
        progress: True for a progress bar on standard error, or a callback.

    Returns:
        The results.

    Raises:
        StudyError: If cells failed. All others were run, and the page lists what failed.
        ToolkitError: If the study, one of its recipes or the folder cannot be used; nothing was started then.
    """
    path = to_path(study, "study")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise RunError(f"jobs is {jobs!r}, but must be an integer of at least 1.", hint="Leave it out for one.")
    loaded = load_study(path)
    cells = make_cells(loaded, overrides)
    folder = StudyFolder(default_study_dir(path) if output_dir is None else to_path(output_dir, "output_dir"))
    folder.check(path.stem, cells)
    search = None if loaded.search is None else Search(loaded, folder, overrides)
    with show_progress(progress):
        check_cells([*cells, *(search.corner_cells() if search else [])])
        folder.create(path.stem)
        with folder_lock(folder.path):
            runner = CellRunner(folder, jobs)
            try:
                if search:
                    loaded = loaded.model_copy(update={"rows": (*loaded.rows, *search.run(runner, jobs))})
                    cells = make_cells(loaded, overrides)
                    folder.check(path.stem, cells)
                runner.run(cells)
            finally:  # after Ctrl-C, the page shows what there is
                result = write_results(folder, path.stem, loaded, cells, search)
    if failed := [cell["name"] for cell in result.record["cells"] if cell["status"] == "failed"]:
        raise StudyError(
            f"{len(failed)} of {len(cells)} cells failed: {join_names(failed, 'and')}.",
            hint=f"{folder.page} lists the reasons. The same command runs only what is missing.",
        )
    return result


def default_study_dir(study: Path) -> Path:
    """Return the default folder of a study, derived from its file name."""
    return Path("outputs") / "studies" / study.stem


def write_results(
    folder: StudyFolder, name: str, study: Study, cells: Sequence[Cell], search: Search | None = None
) -> StudyResult:
    """Write study.json, study.csv and study.html from the finished evaluations."""
    from toolkit.studies.page import render
    from toolkit.studies.results import fit_learning_curves, gather_results, results_csv, summarize, with_baselines

    results = gather_results(folder, study, cells)
    curves = fit_learning_curves(results)
    entries = summarize(with_baselines(results, study.rows[0].name), study.rows[0].name)
    record = {
        "name": name,
        "written": utc_now(),
        "study": study.model_dump(mode="json"),
        "cells": [_describe_cell(folder, cell) for cell in cells],
        "results": entries,
        "learning_curves": curves,
        "search": search.record() if search else None,
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
        "seed": cell.seed,
        "train_rows": cell.train_rows,
        "status": state.status,
        "seconds": state.seconds,
        "error": state.error,
        "hint": state.hint,
    }
