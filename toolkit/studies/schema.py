"""The schema of a study: variants of a recipe, their seeds and training set sizes, and the data to evaluate on."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from toolkit.recipe.section import Count, Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]
Sizes = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
_MAX_NAME_CHARACTERS, _MAX_SLUG_BYTES = 60, 80
BASELINE_SUFFIX, FINALIST_PREFIX = " (baseline)", "finalist, "
_NOT_SEARCHED = ("seed", "data.", "training.best_metric")
"""Keys, and starts of keys, that would change what the trials are judged by, or that the study sets."""
_ROWS = ("data.eval.path", "data.eval.name", "data.eval.split", "data.eval.limit")


class EvaluationSection(Section):
    """Rows to evaluate all models of a study on."""

    data: str | None = Field(
        default=None,
        description="A data file (relative to the current folder) or embedded:nli-fr:SPLIT; null: data.eval.",
    )
    limit: Count | None = Field(default=None, description="Score only the first N rows.")
    mode: Literal["constrained", "free"] = Field(
        default="constrained", description="constrained: every answer is a label; free: generate text."
    )


class VariantSection(Section):
    """A variant: a model that is trained once per seed and training set size, and a row of the table."""

    name: str = Field(description="The name in the table; unique.")
    recipe: str | None = Field(default=None, description="The recipe, relative to the study; null: the study's recipe.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the recipe by dotted keys, after those of the study."
    )
    grid: dict[str, Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]] = Field(
        default_factory=dict,
        description="Values by dotted key, e.g. {lora.r: [8, 16]}; each combination becomes a separate variant.",
    )
    evaluation_overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes that apply only during evaluation, e.g. {model.max_seq_length: 1024} for few-shot.",
    )
    model: Literal["adapter", "base"] = Field(
        default="adapter", description="adapter: the trained model; base: its base model without training."
    )
    shots: int = Field(default=0, ge=0, description="The number of few-shot examples in each prompt; for base only.")
    seeds: Seeds | None = Field(default=None, description="The seeds of this variant; null: those of the study.")
    train_sizes: Sizes | None = Field(
        default=None, description="The training set sizes of this variant; null: those of the study."
    )


class RangeSection(Section):
    """A range of a hyperparameter: of integers if both ends are, else of numbers."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    log: bool = Field(default=False, description="Draw from a logarithmic scale, e.g. for a learning rate.")

    @model_validator(mode="after")
    def _check(self) -> "RangeSection":
        if not self.low < self.high:
            raise ValueError(f"search.space: low ({self.low}) must be less than high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"search.space: low must be above 0 with log: true, but is {self.low}")
        return self


Choices = Annotated[tuple[bool | int | float | str | None, ...], Field(strict=False, min_length=1)]
Space = Annotated[
    Annotated[RangeSection, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(lambda value: "range" if isinstance(value, Mapping | RangeSection) else "choices"),
]
"""The values of a hyperparameter. Their type is decided first, so that a mistake is not reported for both."""


class SearchSection(Section):
    """A search for hyperparameters, whose trials are judged on the dev rows of the study's recipe."""

    space: Annotated[dict[str, Space], Field(min_length=1)] = Field(
        description="Values by dotted key: a list, or a range {low: 1e-4, high: 1e-3, log: true}."
    )
    trials: Count = Field(default=20, description="The number of trials; each is a run with the study's first seed.")
    finalists: Count = Field(
        default=2,
        description="The number of best trials whose settings become variants, which are trained with all seeds.",
    )
    pruning: bool = Field(
        default=True,
        description="Stop trials that are worse than the median of completed trials at the same step.",
    )
    seed: Seed = Field(default=0, description="The seed of the search.")

    @field_validator("space", mode="before")
    @classmethod
    def _check_ranges(cls, space: Any) -> Any:
        """Check the keys of ranges here, because pydantic's messages would not name the hyperparameter."""
        for key, value in space.items() if isinstance(space, Mapping) else ():
            if isinstance(value, Mapping) and not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
                raise ValueError(
                    f"search.space: {key}: {dict(value)} is not a range; write e.g. {{low: 8, high: 64, log: true}}"
                )
        return space


class Study(Section):
    """A study: a table of runs, which differ in recipe, overrides, seed and number of training rows."""

    recipe: str | None = Field(
        default=None, description="The recipe of all variants that do not name one, relative to the study."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the recipes of all variants by dotted keys."
    )
    seeds: Seeds = Field(default=(0,), description="The seeds that each variant is trained with.")
    train_sizes: Sizes | None = Field(
        default=None,
        description="Training set sizes of a learning curve, drawn at random in whole groups; null: all training rows.",
    )
    evaluations: dict[str, EvaluationSection] = Field(
        default={"eval": EvaluationSection()},
        min_length=1,
        description="The data to evaluate on, by name; default: the evaluation rows of each recipe.",
    )
    variants: Annotated[tuple[VariantSection, ...], Field(strict=False, min_length=1)] = Field(
        description="The variants, one row of the table each. Every other variant is compared with the first."
    )
    search: SearchSection | None = Field(
        default=None, description="A search for better settings of the study's recipe, with Optuna; null: none."
    )

    @model_validator(mode="after")
    def _check(self) -> "Study":
        if mistake := _find_mistake(self):
            raise ValueError(mistake)
        return self


def expand_grids(variants: Sequence[VariantSection]) -> tuple[VariantSection, ...]:
    """Return a variant for each combination of the values in the grids, named after them, e.g. `LoRA, r=8`."""
    expanded = []
    for variant in variants:
        for values in product(*variant.grid.values()):
            chosen = dict(zip(variant.grid, values, strict=True))
            name = ", ".join([variant.name, *(f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items())])
            expanded.append(
                variant.model_copy(update={"name": name, "overrides": variant.overrides | chosen, "grid": {}})
            )
    return tuple(expanded)


def _find_mistake(study: Study) -> str | None:
    """Return the first contradiction between keys, as `key: sentence`, or None."""
    names = [variant.name for variant in study.variants]
    for key, values in (("variants", names), ("evaluations", list(study.evaluations))):
        for name in values:
            if not name.strip() or len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
                return f"{key}: {name!r:.80} is not a valid name; use 1 to {_MAX_NAME_CHARACTERS} printable characters"
        slugs = [slug(name) for name in values]
        if repeated := [name for number, name in enumerate(values) if slugs[number] in slugs[:number]]:
            return (
                f"{key}: the name {repeated[0]!r} is not unique; names become folder names, so they must differ in "
                "more than case and punctuation"
            )
    for variant in study.variants:
        where = f"variants: {variant.name!r}"
        if variant.name.endswith(BASELINE_SUFFIX) or (study.search and variant.name.startswith(FINALIST_PREFIX)):
            return f"{where} is a reserved name; choose another one"
        for key, choices in variant.grid.items():
            if repeated_choices := _find_repeated(choices):
                return f"{where}: grid: {key}: {repeated_choices[0]!r:.60} occurs twice"
        if variant.recipe is None and study.recipe is None:
            return f"{where} has no recipe; set recipe in the variant or in the study"
        if variant.shots and variant.model != "base":
            return f"{where} sets shots, which require model: base"
        if rows := [
            key for key in variant.evaluation_overrides if key.startswith(_ROWS) or key in ("data", "data.eval")
        ]:
            return f"{where}: evaluation_overrides: {rows[0]} selects the evaluation rows; set data under evaluations"
        if reserved := {"seed", "data.train_rows"} & {*variant.overrides, *variant.grid, *study.overrides}:
            key = min(reserved)
            instead = "seeds" if key == "seed" else "train_sizes"
            return f"overrides: {key} is set by the study; write {instead} instead"
    if study.search is not None and study.recipe is None:
        return "search: has no recipe to change; set the recipe of the study"
    for key, space in (study.search.space if study.search else {}).items():
        if key.startswith(_NOT_SEARCHED):
            return f"search.space: {key} cannot be searched"
        if isinstance(space, tuple) and (choice := _find_repeated(space)):
            return f"search.space: {key}: {choice[0]!r:.60} occurs twice"
    for where, numbers in _lists_of_numbers(study):
        if repeated_numbers := _find_repeated(numbers):
            return f"{where}: {repeated_numbers[0]} occurs twice"
    return None


def _find_repeated(values: Sequence[Any]) -> list[Any]:
    """Return the values that repeat an earlier one."""
    return [value for index, value in enumerate(values) if value in values[:index]]


def _lists_of_numbers(study: Study) -> list[tuple[str, tuple[int, ...]]]:
    lists = [("seeds", study.seeds), ("train_sizes", study.train_sizes or ())]
    for variant in study.variants:
        where = f"variants: {variant.name!r}"
        lists += [(f"{where}: seeds", variant.seeds or ()), (f"{where}: train_sizes", variant.train_sizes or ())]
    return lists


def slug(name: str) -> str:
    """Return a name as a part of a folder's name: letters, digits, dots, underscores and hyphens, at most 80 bytes."""
    text = re.sub(r"[^\w.]+", "-", name).strip("-.").lower() or "variant"
    if len(text.encode()) <= _MAX_SLUG_BYTES:
        return text
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{text.encode()[: _MAX_SLUG_BYTES - 9].decode(errors='ignore')}-{digest}"
