"""Fixtures of studies: a small study of the tiny model, and cells that run in this process."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.errors import ToolkitError
from toolkit.studies.cell_execution import run_cell
from toolkit.studies.cells import Cell
from toolkit.studies.runner import CellRunner
from toolkit.studies.study_folder import cell_specification


@pytest.fixture
def write_study(recipe_file: Path) -> Callable[..., Path]:
    """A function that writes a study of the tiny model, next to its recipe. Its arguments are keys of the study."""

    def write(name: str = "small", **keys: Any) -> Path:
        path = recipe_file.with_name(f"{name}.yaml")
        values = {"recipe": recipe_file.name, "variants": [{"name": "LoRA"}], "seeds": [1, 2], **keys}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run cells in this process, one after another, without the seconds that the imports of a new process take.

    Returns:
        The names of the cells that were started.
    """
    started: list[str] = []

    def run_here(self: CellRunner, cell: Cell, should_prune: Callable[[], bool] = lambda: False) -> str:
        if not self._is_completed(cell):
            started.append(cell.name)
            with suppress(ToolkitError):
                run_cell(self.folder, json.loads(cell_specification(cell)))
        return ""

    def run(self: CellRunner, cells: Sequence[Cell]) -> None:
        for cell in cells:
            self.run_cell(cell)

    monkeypatch.setattr(CellRunner, "run_cell", run_here)
    monkeypatch.setattr(CellRunner, "run", run)
    return started
