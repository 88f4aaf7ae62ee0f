"""The parts of a recipe's data: rows to train on, rows to score, and rows to calibrate on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.data.calibration_split import split_calibration
from toolkit.data.example import Example
from toolkit.data.examples import check_all_labels_occur, fingerprint, label_counts, load_examples
from toolkit.data.sources import describe
from toolkit.errors import DataError
from toolkit.recipe.schema import Recipe


@dataclass(frozen=True)
class Overlap:
    """Distinct texts of the evaluation rows that also stand in the training rows."""

    premises: int
    hypotheses: int
    pairs: int


def find_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> Overlap:
    """Count what evaluation shares with training, letter for letter."""
    return Overlap(
        premises=len({row.premise for row in train} & {row.premise for row in evaluation}),
        hypotheses=len({row.hypothesis for row in train} & {row.hypothesis for row in evaluation}),
        pairs=len(
            {(row.premise, row.hypothesis) for row in train} & {(row.premise, row.hypothesis) for row in evaluation}
        ),
    )


@dataclass(frozen=True)
class Splits:
    """The checked training and evaluation rows, those held back, and what was found out about them.

    `calibration_set` are rows of data.train that training does not see; no premise stands in both.
    """

    train: list[Example]
    eval: list[Example]
    overlap: Overlap
    calibration_set: list[Example] = field(default_factory=list)

    @property
    def unseen_calibration_set(self) -> list[Example]:
        """The held-back rows whose premise no evaluation row has either: what a temperature may be fitted on."""
        premises = {row.premise for row in self.eval}
        return [row for row in self.calibration_set if row.premise not in premises]

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Counts, fingerprints and overlap, for run.json."""
        named_rows = [("train", recipe.data.train, self.train), ("eval", recipe.data.eval, self.eval)]
        if self.calibration_set:
            named_rows.insert(1, ("calibration", recipe.data.train, self.calibration_set))
        return {
            name: {
                "source": describe(source),
                "rows": len(rows),
                "labels": label_counts(recipe, rows),
                "fingerprint": fingerprint(rows),
            }
            for name, source, rows in named_rows
        } | {"overlap": asdict(self.overlap)}


def _with_data_fields(trained_recipe: Recipe | None, recipe: Recipe) -> Recipe:
    if trained_recipe is None or trained_recipe.data.train.path != recipe.data.train.path:
        return recipe
    data_fields = {"columns": trained_recipe.data.columns, "label_map": trained_recipe.data.label_map}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data_fields)})


def load_splits(recipe: Recipe, *, is_external: bool = False, trained_recipe: Recipe | None = None) -> Splits:
    """Load all parts of the data and refuse a pair that stands in training and evaluation rows.

    Args:
        recipe: names the sources, and the share of the training rows to hold back.
        is_external: of the evaluation rows, as for `load_examples`.
        trained_recipe: the recipe of the run, whose names of columns and labels hold for the training rows, where
            `recipe` may name those of other evaluation rows.

    Raises:
        DataError: as `load_examples` and `split_calibration`, or when evaluation pairs were trained on and the recipe
            does not allow it.
    """
    rows = load_examples(_with_data_fields(trained_recipe, recipe), recipe.data.train, is_training=True)
    evaluation = load_examples(recipe, recipe.data.eval, is_external=is_external)
    overlap = find_overlap(rows, evaluation)
    if overlap.pairs and not recipe.data.allow_overlap:
        raise DataError(
            f"{overlap.pairs} pairs of data.eval stand in data.train too, so the evaluation would measure memory.",
            hint="Remove them from one of the two, or set data.allow_overlap: true.",
        )
    train, calibration_set = split_calibration(rows, recipe.data.calibration_share, recipe.seed)
    where = f"{describe(recipe.data.train)} without the share {recipe.data.calibration_share:g} that is held back"
    check_all_labels_occur(recipe, train, where)
    return Splits(train, evaluation, overlap, calibration_set)
