"""The schema of a study: the rows of its table, their seeds and data sizes, and the data to evaluate on."""

import re
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from toolkit.recipe.section import Count, Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]
Sizes = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
_MAX_NAME_CHARACTERS = 60


class EvaluationSection(Section):
    """Rows to evaluate all models of a study on."""

    data: str | None = Field(
        default=None, description="A data file or embedded:nli-fr:SPLIT; null: the evaluation rows of each recipe."
    )
    limit: Count | None = Field(default=None, description="Score only the first N rows.")
    mode: Literal["constrained", "free"] = Field(
        default="constrained", description="constrained: every answer is a label; free: generate text."
    )


class RowSection(Section):
    """A row of the table: a model, trained once per seed and data size."""

    name: str = Field(description="The name in the table; unique.")
    recipe: str | None = Field(default=None, description="The recipe, relative to the study; null: the study's recipe.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the recipe by dotted keys, after those of the study."
    )
    grid: dict[str, Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]] = Field(
        default_factory=dict,
        description="Values by dotted key, e.g. {lora.r: [8, 16]}; each combination becomes a row of its own.",
    )
    evaluation_overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes only for evaluating, e.g. {model.max_seq_length: 1024} for few-shot examples.",
    )
    model: Literal["adapter", "base"] = Field(
        default="adapter", description="adapter: the trained model; base: its base model, as a zero-shot baseline."
    )
    shots: int = Field(default=0, ge=0, description="The number of few-shot examples in each prompt; for base only.")
    seeds: Seeds | None = Field(default=None, description="The seeds of this row; null: those of the study.")
    train_rows: Sizes | None = Field(default=None, description="The data sizes of this row; null: those of the study.")


class RangeSection(Section):
    """A range of a hyperparameter: of integers if both ends are, else of numbers."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    log: bool = Field(default=False, description="Draw from a logarithmic scale, e.g. for a learning rate.")

    @model_validator(mode="after")
    def _check(self) -> "RangeSection":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"search.space: {self.low} to {self.high} is not a range" + " above 0" * self.log)
        return self


Choices = Annotated[tuple[bool | int | float | str | None, ...], Field(strict=False, min_length=1)]


class SearchSection(Section):
    """A search for hyperparameters, whose trials are judged on the dev rows of the study's recipe."""

    space: Annotated[dict[str, RangeSection | Choices], Field(min_length=1)] = Field(
        description="Values by dotted key: a list, or a range {low: 1e-4, high: 1e-3, log: true}."
    )
    trials: Count = Field(default=20, description="The number of runs to try, with the first of the study's seeds.")
    finalists: Count = Field(
        default=2, description="The number of best settings that become rows of the table, with all seeds."
    )
    pruning: bool = Field(
        default=True, description="Stop trials whose dev metric is worse than the median of others at the same step."
    )
    seed: Seed = Field(default=0, description="The seed of the search.")


class Study(Section):
    """A study: a table of runs, which differ in recipe, overrides, seed and number of training rows."""

    recipe: str | None = Field(
        default=None, description="The recipe of all rows that do not name their own, relative to the study."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the recipes of all rows by dotted keys."
    )
    seeds: Seeds = Field(default=(0,), description="The seeds that each row is trained with.")
    train_rows: Sizes | None = Field(
        default=None,
        description="The numbers of training rows of a learning curve, drawn at random; null: all rows of the recipe.",
    )
    evaluations: dict[str, EvaluationSection] = Field(
        default={"eval": EvaluationSection()},
        min_length=1,
        description="The data to evaluate on, by name; default: the evaluation rows of each recipe.",
    )
    rows: Annotated[tuple[RowSection, ...], Field(strict=False, min_length=1)] = Field(
        description="The rows of the table. All others are compared with the first."
    )
    search: SearchSection | None = Field(
        default=None, description="A search for better settings of the study's recipe, with Optuna; null: none."
    )

    @model_validator(mode="after")
    def _check(self) -> "Study":
        if mistake := _find_mistake(self):
            raise ValueError(mistake)
        return self


def expand_grids(rows: Sequence[RowSection]) -> tuple[RowSection, ...]:
    """Return a row for each combination of the values in the grids, named after them, e.g. `LoRA, r=8`."""
    expanded = []
    for row in rows:
        for values in product(*row.grid.values()):
            chosen = dict(zip(row.grid, values, strict=True))
            name = ", ".join([row.name, *(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items())])
            expanded.append(row.model_copy(update={"name": name, "overrides": row.overrides | chosen, "grid": {}}))
    return tuple(expanded)


def _find_mistake(study: Study) -> str | None:
    """Return the first contradiction between keys, as `key: sentence`, or None."""
    names = [row.name for row in study.rows]
    for key, values in (("rows", names), ("evaluations", list(study.evaluations))):
        for name in values:
            if not name.strip() or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
                return f"{key}: {name!r:.80} is not a name; write 1 to {_MAX_NAME_CHARACTERS} printable characters"
        slugs = [slug(name) for name in values]
        if repeated := [name for number, name in enumerate(values) if slugs[number] in slugs[:number]]:
            return f"{key}: the name {repeated[0]!r} occurs twice, or its folder would"
    for row in study.rows:
        if row.recipe is None and study.recipe is None:
            return f"rows: {row.name!r} has no recipe; set recipe in the row or in the study"
        if row.shots and row.model != "base":
            return f"rows: {row.name!r} has shots, which are for model: base"
        if reserved := {"seed", "data.train_rows"} & {*row.overrides, *row.grid, *study.overrides}:
            key = min(reserved)
            return f"overrides: {key} is set by the study; write {'seeds' if key == 'seed' else 'train_rows'} instead"
    if study.search is not None and study.recipe is None:
        return "search: has no recipe to change; set the recipe of the study"
    if study.search is not None and (reserved := {"seed", "data.train_rows"} & set(study.search.space)):
        return f"search.space: {min(reserved)} is not a hyperparameter"
    for where, numbers in _lists_of_numbers(study):
        if len(set(numbers)) < len(numbers):
            return f"{where}: a value occurs twice"
    return None


def _lists_of_numbers(study: Study) -> list[tuple[str, tuple[int, ...]]]:
    lists = [("seeds", study.seeds), ("train_rows", study.train_rows or ())]
    for row in study.rows:
        lists += [
            (f"rows: {row.name!r}: seeds", row.seeds or ()),
            (f"rows: {row.name!r}: train_rows", row.train_rows or ()),
        ]
    return lists


def slug(name: str) -> str:
    """Return a name as a part of a folder's name: letters, digits, dots, underscores and hyphens."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.").lower() or "row"
