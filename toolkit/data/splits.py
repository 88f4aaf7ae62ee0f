"""The splits of a recipe's data: training rows, evaluation rows and the calibration set."""

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
    """Counts of distinct evaluation texts that also occur in the training rows."""

    premises: int
    hypotheses: int
    pairs: int


def find_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> Overlap:
    """Count the texts that evaluation rows and training rows share exactly."""
    return Overlap(
        premises=len({row.premise for row in train} & {row.premise for row in evaluation}),
        hypotheses=len({row.hypothesis for row in train} & {row.hypothesis for row in evaluation}),
        pairs=len(
            {(row.premise, row.hypothesis) for row in train} & {(row.premise, row.hypothesis) for row in evaluation}
        ),
    )


@dataclass(frozen=True)
class Splits:
    """The checked rows of a recipe, and the overlap between training and evaluation.

    Args:
        train: The rows to train on.
        eval: The evaluation rows.
        overlap: The texts that data.train and data.eval share.
        calibration_set: Rows of data.train that are held out of training. They share no premise with `train`.
    """

    train: list[Example]
    eval: list[Example]
    overlap: Overlap
    calibration_set: list[Example] = field(default_factory=list)

    @property
    def unseen_calibration_set(self) -> list[Example]:
        """The calibration rows that share no premise with the evaluation rows. Temperatures are fitted on these."""
        premises = {row.premise for row in self.eval}
        return [row for row in self.calibration_set if row.premise not in premises]

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Return the sources, counts, fingerprints and overlap for run.json."""
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


def _with_trained_columns(trained_recipe: Recipe | None, recipe: Recipe) -> Recipe:
    if trained_recipe is None or trained_recipe.data.train.path != recipe.data.train.path:
        return recipe
    # Other evaluation rows only change how data.eval is read, unless the training rows were replaced as well.
    data_fields = {"columns": trained_recipe.data.columns, "label_map": trained_recipe.data.label_map}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data_fields)})


def load_splits(recipe: Recipe, *, is_external: bool = False, trained_recipe: Recipe | None = None) -> Splits:
    """Load all splits, and check that no pair is in both training and evaluation rows.

    Args:
        recipe: The recipe, which names the sources and the share of the training rows to hold out.
        is_external: Whether the recipe was not written for the evaluation rows, see `load_examples`.
        trained_recipe: The recipe of the run if `recipe` was changed to describe other evaluation rows. The training
            rows are read with its columns and label map.

    Raises:
        DataError: If rows cannot be loaded or split, or if pairs occur in both data.train and data.eval and the recipe
            does not allow it.
    """
    rows = load_examples(_with_trained_columns(trained_recipe, recipe), recipe.data.train, is_training=True)
    evaluation = load_examples(recipe, recipe.data.eval, is_external=is_external)
    overlap = find_overlap(rows, evaluation)
    if overlap.pairs and not recipe.data.allow_overlap:
        raise DataError(
            f"{overlap.pairs} pairs occur in both data.train and data.eval, so the score would reward memorization.",
            hint="Remove them from one of the two, or set data.allow_overlap: true.",
        )
    train, calibration_set = split_calibration(rows, recipe.data.calibration_share, recipe.seed)
    # Checked again: the held-out premises may have had the only rows of a label.
    train_name = f"{describe(recipe.data.train)} without the held-out share of {recipe.data.calibration_share:g}"
    check_all_labels_occur(recipe, train, train_name)
    return Splits(train, evaluation, overlap, calibration_set)
