"""The folder of a study: the names of its files, and the state of each cell."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from toolkit.errors import RunError, first_line
from toolkit.recipe.loading import diff_recipes, load_recipe
from toolkit.runs.run_folder import RunFolder, read_json_object
from toolkit.runs.run_paths import check_can_create, check_no_links, check_run_path
from toolkit.studies.cells import Cell
from toolkit.utils.atomic_io import write_json

_OTHER_FOLDER = "Choose another folder with output_dir."


@dataclass
class CellState:
    """The progress of a cell, saved as cells/NAME.json.

    Args:
        status: `waiting` before the first start, `failed` if the cell ended with an error, `pruned` if a search
            stopped it for good.
        threads: The number of CPU threads that the cell was started with; None if it has not started. A run can only be
            resumed with the same number.
        evaluations: The names of the finished evaluations' folders, by the key of the measurement.
        seconds: The seconds that the cell took so far, over all starts.
        error: The message of the error that ended it, or "".
        hint: What to do about the error, or "".
    """

    status: Literal["waiting", "running", "completed", "failed", "pruned"] = "waiting"
    threads: int | None = None
    evaluations: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    hint: str = ""


class StudyFolder:
    """The folder of a study, with the paths of its files.

    Args:
        path: The folder, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"
        self.cells = path / "cells"
        self.logs = path / "logs"
        self.record = path / "study.json"
        self.csv = path / "study.csv"
        self.page = path / "study.html"

    def run(self, cell: str) -> RunFolder:
        """Return the run folder of a cell."""
        return RunFolder(self.runs / cell)

    def log(self, cell: str) -> Path:
        """Return the file with the output of a cell."""
        return self.logs / f"{cell}.log"

    def state(self, cell: str) -> CellState:
        """Return the saved state of a cell.

        Raises:
            RunError: If its file is damaged.
        """
        path = self.cells / f"{cell}.json"
        if not path.is_file():
            return CellState()
        try:
            return TypeAdapter(CellState).validate_python(read_json_object(path))
        except (ValidationError, RunError) as error:
            hint = "Remove it; the cell's run is kept."
            raise RunError(f"{path} is damaged: {first_line(error)}.", hint=hint) from error

    def save_state(self, cell: str, state: CellState) -> None:
        """Save the state of a cell."""
        write_json(self.cells / f"{cell}.json", asdict(state))

    def create(self, name: str) -> None:
        """Create the folder with a study.json that names the study."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.record.is_file():  # first, because a folder without it is refused
            write_json(self.record, {"name": name})
        for folder in (self.runs, self.cells, self.logs):
            folder.mkdir(exist_ok=True)

    def check(self, name: str, cells: Sequence[Cell]) -> None:
        """Check that the folder is free, or that it belongs to this study and its runs to these cells.

        Raises:
            RunError: If it does not, or cannot be written. The message names all runs that differ.
        """
        check_run_path(self.path)
        check_can_create(self.path, hint=_OTHER_FOLDER)
        check_no_links([self.runs, self.cells, self.logs])
        for cell in cells:
            check_run_path(self.run(cell.name).path)
            self.state(cell.name)  # a damaged one is reported before hours of work
        if not self.path.is_dir() or not any(path.suffix != ".partial" for path in self.path.iterdir()):
            return
        if not self.record.is_file():
            raise RunError(f"{self.path} is not a study folder: study.json is missing.", hint=_OTHER_FOLDER)
        if (other := read_json_object(self.record).get("name")) != name:
            raise RunError(f"{self.path} belongs to the study {other!r}, not to {name!r}.", hint=_OTHER_FOLDER)
        if differing := [difference for cell in cells if (difference := self._difference(cell))]:
            raise RunError(
                "\n".join(differing),
                hint="Restore the study, remove these runs, or choose another folder with output_dir.",
            )

    def _difference(self, cell: Cell) -> str:
        """Return a sentence about the keys in which a run's recipe differs from that of its cell, or ""."""
        run = self.run(cell.name)
        if not run.recipe_file.is_file() or (saved := load_recipe(run.recipe_file)) == cell.recipe:
            return ""
        changed = ", ".join(diff_recipes(saved, cell.recipe))
        return f"{run.path}: the recipe has changed since this run was trained: {changed}."


def cell_specification(cell: Cell) -> str:
    """Return a cell as a line of JSON, for the process that runs it."""
    measurements = [
        {
            "key": measurement.key,
            "model": str(measurement.request.model),
            "data": measurement.request.data,
            "limit": measurement.request.limit,
            "mode": measurement.request.mode,
            "shots": measurement.request.shots,
            "overrides": dict(measurement.overrides),
        }
        for measurement in cell.measurements
    ]
    return json.dumps({"name": cell.name, "recipe": cell.recipe.model_dump(mode="json"), "measurements": measurements})
