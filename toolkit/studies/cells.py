"""The cells of a study: one run for each distinct recipe, seed and number of training rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError, ToolkitError
from toolkit.evaluation.request import EvaluationRequest
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.studies.schema import RowSection, Study, slug


@dataclass(frozen=True)
class Measurement:
    """A model of a cell's run and the rows that it is evaluated on.

    Args:
        row: The name of the row of the table.
        evaluation: The name of the evaluation.
        request: The parameters of the evaluation.
        overrides: Changes to the recipe only for this evaluation.
    """

    row: str
    evaluation: str
    request: EvaluationRequest
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A name that is unique in its cell."""
        return f"{slug(self.row)}@{slug(self.evaluation)}"


@dataclass(frozen=True)
class Cell:
    """A run of a study and its evaluations.

    Args:
        name: The name of the run folder.
        recipe: The recipe, with the overrides of study and row, the seed and the number of training rows.
        seed: The seed.
        train_rows: The number of training rows; None for all.
        measurements: The evaluations of the run. Rows of the table with the same recipe share a run, e.g. an adapter
            and its base model.
    """

    name: str
    recipe: Recipe
    seed: int
    train_rows: int | None
    measurements: tuple[Measurement, ...]


def make_cells(study: Study, overrides: Overrides = ()) -> list[Cell]:
    """Return the cells of a study in the order of its rows, sizes and seeds.

    Args:
        study: The study.
        overrides: Changes to all recipes, after those of the study and before those of a row.

    Raises:
        RecipeError: If recipes are invalid. The message has the mistakes of all rows.
    """
    cells: list[Cell] = []
    mistakes: list[str] = []
    for row in study.rows:
        try:
            _add_cells(cells, study, row, overrides)
        except ToolkitError as error:
            mistakes.append(f"{row.name}: {error}")
    if mistakes:
        raise RecipeError("\n".join(mistakes), hint="No cell was started. Fix the rows, or leave them out.")
    return cells


def _add_cells(cells: list[Cell], study: Study, row: RowSection, overrides: Overrides) -> None:
    path = row.recipe or study.recipe or ""  # the schema ensures that one of them is set
    values = load_recipe(path, study.overrides).model_dump(mode="json")
    for changes in (overrides, row.overrides):
        values = build_recipe(values, Path(path).name, changes).model_dump(mode="json")
    measurements = tuple(
        Measurement(
            row.name,
            name,
            EvaluationRequest(
                ModelRef.parse(row.model), data=data.data, limit=data.limit, mode=data.mode, shots=row.shots
            ),
            row.evaluation_overrides,
        )
        for name, data in study.evaluations.items()
    )
    sizes: tuple[int | None, ...] = row.train_rows or study.train_rows or (None,)
    seeds = row.seeds or study.seeds
    if row.model == "base":  # it is the same whatever its adapter was trained on, and without shots whatever the seed
        sizes, seeds = (max(sizes, key=lambda size: size or 0),), seeds if row.shots else seeds[:1]
    data = build_recipe(values, Path(path).name).data
    if data.shares_rows and data.split_seed is None and len(seeds) > 1:
        raise RecipeError("data.eval_share would hold out other rows for each seed; set data.split_seed, e.g. to 0.")
    for size in sizes:
        for seed in seeds:
            fields: dict[str, Any] = {"seed": seed, **({} if size is None else {"data.train_rows": size})}
            recipe = build_recipe(values, Path(path).name, fields)
            _add_cell(cells, Cell(_cell_name(row, seed, size), recipe, seed, size, measurements))


def _add_cell(cells: list[Cell], new: Cell) -> None:
    """Append a cell, or its measurements to the cell that trains the same recipe."""
    for number, cell in enumerate(cells):
        if cell.recipe == new.recipe:
            cells[number] = Cell(
                cell.name, cell.recipe, cell.seed, cell.train_rows, cell.measurements + new.measurements
            )
            return
    cells.append(new)


def _cell_name(row: RowSection, seed: int, size: int | None) -> str:
    return f"{slug(row.name)}{'' if size is None else f'-n{size}'}-seed{seed}"


def check_cells(cells: Sequence[Cell]) -> None:
    """Check recipes, rows, tokenizers and memory of all cells before the first one starts.

    Cells that differ only in their seed are checked once.

    Raises:
        RecipeError: If cells cannot run. The message has one line per cell.
    """
    from toolkit.api.preflight import preflight

    problems: list[str] = []
    checked: list[Recipe] = []
    for cell in cells:
        without_seed = cell.recipe.model_copy(update={"seed": 0})
        if without_seed in checked:
            continue
        checked.append(without_seed)
        try:
            report = preflight(cell.recipe)
        except ToolkitError as error:
            problems.append(f"{cell.name}: {error}")
            continue
        if report.fits is False:
            problems.append(f"{cell.name}: does not fit into memory, see toolkit.preflight(RECIPE).report().")
    problems += [f"{cell.name}: {problem}" for cell in cells for problem in _evaluation_problems(cell)]
    if problems:
        raise RecipeError(
            "\n".join(dict.fromkeys(problems)), hint="No cell was started. Fix these rows, or leave them out."
        )


def _evaluation_problems(cell: Cell) -> list[str]:
    from toolkit.data.sources import check_files_exist, parse_data

    problems = []
    for measurement in cell.measurements:
        request = measurement.request
        try:
            if cell.recipe.model.kind == "encoder" and (request.model.name == "base" or request.mode == "free"):
                raise RecipeError("an encoder has neither a base model to evaluate nor free generation.")
            build_recipe(cell.recipe.model_dump(mode="json"), cell.name, measurement.overrides)
            if request.data is not None:
                check_files_exist(parse_data(request.data))
        except ToolkitError as error:
            problems.append(f"{measurement.row}, {measurement.evaluation}: {error}")
    return problems
