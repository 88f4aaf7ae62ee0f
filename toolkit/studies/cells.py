"""The cells of a study: one run for each distinct recipe, seed and training set size."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError, ToolkitError
from toolkit.evaluation.request import EvaluationRequest
from toolkit.recipe.data_paths import find_files, is_local, resolve_data_path
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.studies.schema import Study, VariantSection, slug
from toolkit.utils.atomic_io import file_fingerprint
from toolkit.utils.formatting import join_names


@dataclass(frozen=True)
class Measurement:
    """A model of a cell's run and the rows that it is evaluated on.

    Args:
        variant: The name of the variant.
        evaluation: The name of the evaluation.
        train_size: The largest number of training rows; None for all.
        request: The parameters of the evaluation.
        overrides: Changes to the recipe only for this evaluation.
        fingerprint: The fingerprint of the request's data files; None for other data.
    """

    variant: str
    evaluation: str
    train_size: int | None
    request: EvaluationRequest
    overrides: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None

    @property
    def key(self) -> str:
        """A name that is unique in its cell.

        It changes with the parameters and the contents of data files, so that old results are not reused.
        """
        request = self.request
        parameters = [str(request.model), request.data, request.limit, request.mode, request.shots, self.overrides]
        parameters += [self.fingerprint] if self.fingerprint else []
        digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
        return f"{slug(self.variant)}@{slug(self.evaluation)}-{digest}"


@dataclass(frozen=True)
class Cell:
    """A run of a study and its evaluations.

    Args:
        name: The name of the run folder.
        recipe: The recipe, with the overrides of study and variant, the seed and the training set size.
        measurements: The evaluations of the run. Variants with the same recipe share a run, e.g. an adapter and its
            base model.
    """

    name: str
    recipe: Recipe
    measurements: tuple[Measurement, ...]


def make_cells(study: Study, overrides: Overrides = ()) -> list[Cell]:
    """Return the cells of a study in the order of its variants, sizes and seeds.

    Args:
        study: The study.
        overrides: Changes to all recipes, after those of the study and before those of a variant.

    Raises:
        RecipeError: If recipes are invalid. The message has the mistakes of all variants.
    """
    cells: list[Cell] = []
    mistakes: list[str] = _find_reserved_overrides(overrides)
    for variant in study.variants:
        try:
            _add_cells(cells, study, variant, overrides)
        except ToolkitError as error:
            mistakes.append(f"{variant.name}: {error}")
    for names in ([variant.name for variant in study.variants], [cell.name for cell in cells]):
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            mistakes.append(f"{join_names(repeated, 'and')}: several variants would have this name; rename them.")
    if mistakes:
        raise RecipeError("\n".join(mistakes), hint="No cell was started. Fix or remove these variants.")
    return cells


def _find_reserved_overrides(overrides: Overrides) -> list[str]:
    keys = overrides if isinstance(overrides, Mapping) else [str(text).partition("=")[0].strip() for text in overrides]
    instead = {"seed": "seeds", "data.train_rows": "train_sizes"}
    return [
        f"overrides: {key} is set by the study; change {instead[key]} in its file." for key in keys if key in instead
    ]


def _add_cells(cells: list[Cell], study: Study, variant: VariantSection, overrides: Overrides) -> None:
    path = variant.recipe or study.recipe or ""  # the schema ensures that one of them is set
    values = load_recipe(path, study.overrides).model_dump(mode="json")
    for changes in (overrides, variant.overrides):
        values = build_recipe(values, Path(path).name, changes).model_dump(mode="json")
    requests = {
        name: EvaluationRequest(
            ModelRef.parse(variant.model),
            data=None if data.data is None else resolve_data_path(data.data),
            limit=data.limit,
            mode=data.mode,
            shots=variant.shots,
        )
        for name, data in study.evaluations.items()
    }
    fingerprints = {name: _data_fingerprint(request) for name, request in requests.items()}
    sizes, seeds = variant_sizes(study, variant), variant.seeds or study.seeds
    if variant.model == "base" and not variant.shots:  # the base model does not depend on the seed
        seeds = seeds[:1]
    data = build_recipe(values, Path(path).name).data
    if data.shares_rows and data.split_seed is None and len(seeds) > 1:
        raise RecipeError(
            "data.eval_share would hold out different rows for each seed. Set data.split_seed, e.g. to 0."
        )
    for size in sizes:
        for seed in seeds:
            fields: dict[str, Any] = {"seed": seed, **({} if size is None else {"data.train_rows": size})}
            recipe = build_recipe(values, Path(path).name, fields)
            measurements = tuple(
                Measurement(variant.name, name, size, request, variant.evaluation_overrides, fingerprints[name])
                for name, request in requests.items()
            )
            _add_cell(cells, Cell(_cell_name(variant, seed, size), recipe, measurements))


def _data_fingerprint(request: EvaluationRequest) -> str | None:
    """Return the fingerprint of the data files of an evaluation; None if it uses others or if they cannot be read.

    Unreadable files, and rows of the run itself that have changed since training, are reported by `check_cells`.
    """
    if request.data is None or not is_local(request.data):
        return None
    try:
        return file_fingerprint(find_files(request.data))
    except OSError:
        return None


def variant_sizes(study: Study, variant: VariantSection) -> tuple[int | None, ...]:
    """Return the training set sizes of a variant, the largest last; (None,) for all rows.

    The base model does not depend on the training rows, so only the largest size is used.
    """
    sizes = sorted(variant.train_sizes or study.train_sizes or ())
    return (*(sizes[-1:] if variant.model == "base" else sizes),) or (None,)


def _add_cell(cells: list[Cell], new: Cell) -> None:
    """Append a cell, or its measurements to the cell that trains the same recipe."""
    for number, cell in enumerate(cells):
        if cell.recipe == new.recipe:
            cells[number] = Cell(cell.name, cell.recipe, cell.measurements + new.measurements)
            return
    cells.append(new)


def _cell_name(variant: VariantSection, seed: int, size: int | None) -> str:
    return f"{slug(variant.name)}{'' if size is None else f'-n{size}'}-seed{seed}"
