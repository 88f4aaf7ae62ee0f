"""The splits of a recipe's data: training rows, evaluation rows and the calibration set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.data.example import Example
from toolkit.data.examples import LoadedRows, check_all_labels_occur, fingerprint, label_counts, load_rows
from toolkit.data.group_split import split_calibration, split_evaluation
from toolkit.data.sources import describe
from toolkit.errors import DataError
from toolkit.recipe.inputs import NLI_INPUTS, name_rows, name_texts
from toolkit.recipe.schema import Recipe

_SHOWN_ROWS = 3  # in a message


@dataclass(frozen=True)
class Overlap:
    """Counts of distinct evaluation texts that also occur in the training rows.

    Args:
        inputs: The count for each input.
        rows: The count of rows whose texts all occur together in a training row.
    """

    inputs: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0

    def record(self) -> dict[str, int]:
        """Return the counts for run.json."""
        if tuple(self.inputs) == NLI_INPUTS:
            return {"premises": self.inputs["premise"], "hypotheses": self.inputs["hypothesis"], "pairs": self.rows}
        return {**self.inputs, "rows": self.rows}

    def __str__(self) -> str:
        # With a single input, the count of its texts is the count of the rows.
        counts = {name_texts(name): count for name, count in self.inputs.items()} if len(self.inputs) > 1 else {}
        counts[name_rows(self.inputs)] = self.rows
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def find_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> Overlap:
    """Count the texts that evaluation rows and training rows share exactly."""
    names = tuple(train[0].inputs) if train else ()
    return Overlap(
        {name: len({row.inputs[name] for row in train} & {row.inputs[name] for row in evaluation}) for name in names},
        len({row.texts for row in train} & {row.texts for row in evaluation}),
    )


def _list_overlapping_rows(train: Sequence[Example], evaluation: Sequence[Example]) -> str:
    """Return the first overlapping evaluation rows, each with its training row, as text for a message."""
    train_ids = {row.texts: row.id for row in reversed(train)}
    overlapping = [row for row in evaluation if row.texts in train_ids]
    return ", ".join(
        f"{row.id:.40} of data.eval is {train_ids[row.texts]:.40} of data.train" for row in overlapping[:_SHOWN_ROWS]
    ) + (" ..." if len(overlapping) > _SHOWN_ROWS else "")


@dataclass(frozen=True)
class Splits:
    """The checked rows of a recipe, and the overlap between training and evaluation.

    Args:
        train: The rows to train on.
        eval: The evaluation rows.
        overlap: The texts that training rows and evaluation rows share.
        calibration_set: Rows of data.train that are held out of training. They share no group with `train`.
        left_out: The counts in `LoadedRows.left_out`, for train and eval.
        dev: The rows to validate on while training.
    """

    train: list[Example]
    eval: list[Example]
    overlap: Overlap
    calibration_set: list[Example] = field(default_factory=list)
    left_out: Mapping[str, dict[str, int]] = field(default_factory=dict)
    dev: list[Example] = field(default_factory=list)

    @property
    def unseen_calibration_set(self) -> list[Example]:
        """The calibration rows that share no group with the evaluation rows. Temperatures are fitted on these."""
        groups = {row.group for row in self.eval}
        return [row for row in self.calibration_set if row.group not in groups]

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Return the sources, counts, fingerprints and overlap for run.json."""
        named_rows = [("train", recipe.data.train, self.train), ("eval", recipe.data.eval, self.eval)]
        if self.calibration_set:
            named_rows.insert(1, ("calibration", recipe.data.train, self.calibration_set))
        if self.dev:
            named_rows.insert(1, ("dev", recipe.data.dev or recipe.data.train, self.dev))
        return {
            name: {
                "source": describe(source),
                "rows": len(rows),
                "labels": label_counts(recipe, rows),
                "fingerprint": fingerprint(rows),
                **({"left_out": self.left_out[name]} if self.left_out.get(name) else {}),
            }
            for name, source, rows in named_rows
        } | {"overlap": self.overlap.record()}


def load_evaluation_rows(recipe: Recipe, *, is_external: bool = False) -> list[Example]:
    """Load the evaluation rows: data.eval, or with data.eval_share their share of data.train.

    Args:
        recipe: The recipe, which names the source.
        is_external: Whether the recipe was not written for the evaluation rows, see `load_examples`.

    Raises:
        DataError: If rows cannot be loaded or split.
    """
    return _load_evaluation(recipe, is_external=is_external).examples


def _load_evaluation(recipe: Recipe, *, is_external: bool) -> LoadedRows:
    if recipe.data.shares_rows:
        return _load_shared_rows(recipe)[1]
    return load_rows(recipe, recipe.data.eval, is_external=is_external)


def _load_shared_rows(recipe: Recipe) -> tuple[LoadedRows, LoadedRows]:
    """Load data.train and split it. Rows that are left out are counted with the training rows."""
    data = recipe.data
    loaded = load_rows(recipe, data.train)
    train, evaluation = split_evaluation(loaded.examples, data.eval_share, recipe.seed)
    return LoadedRows(train, loaded.left_out), LoadedRows(evaluation[: data.eval.limit])


def _with_trained_data(trained_recipe: Recipe | None, recipe: Recipe) -> Recipe:
    """Return the recipe to read the training rows with."""
    if trained_recipe is None or trained_recipe.data.train.path != recipe.data.train.path:
        return recipe
    # Other evaluation rows only change how data.eval is read, unless the training rows were replaced as well.
    trained = trained_recipe.data
    fields: dict[str, Any] = {name: getattr(trained, name) for name in ("columns", "label_map", "unlabeled")}
    if not trained.shares_rows:
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=fields)})
    fields |= {"train": trained.train, "eval_share": trained.eval_share}
    if not recipe.data.shares_rows:
        fields["eval"] = trained.eval
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=fields), "seed": trained_recipe.seed})


def load_splits(recipe: Recipe, *, is_external: bool = False, trained_recipe: Recipe | None = None) -> Splits:
    """Load all splits, and check that no row is in both training and evaluation rows.

    Args:
        recipe: The recipe, which names the sources and the shares of data.train to evaluate on and to hold out.
        is_external: Whether the recipe was not written for the evaluation rows, see `load_examples`.
        trained_recipe: The recipe of the run if `recipe` was changed to describe other evaluation rows. The training
            rows are read with its columns, label map and data.eval_share.

    Raises:
        DataError: If rows cannot be loaded or split, or if rows occur in both data.train and data.eval and the recipe
            does not allow it.
    """
    training_recipe = _with_trained_data(trained_recipe, recipe)
    is_shared = training_recipe.data.shares_rows
    if is_shared and training_recipe == recipe:
        loaded, loaded_evaluation = _load_shared_rows(recipe)
    else:
        loaded = (
            _load_shared_rows(training_recipe)[0]
            if is_shared
            else load_rows(training_recipe, recipe.data.train, is_training=True)
        )
        loaded_evaluation = _load_evaluation(recipe, is_external=is_external)
    rows, evaluation = loaded.examples, loaded_evaluation.examples
    overlap = find_overlap(rows, evaluation)
    if overlap.rows and not recipe.data.allow_overlap:
        raise DataError(
            f"{overlap.rows} {name_rows(recipe.task.inputs)} occur in both data.train and data.eval, so the score "
            f"would reward memorization: row {_list_overlapping_rows(rows, evaluation)}.",
            hint="Remove them from one of the two, or set data.allow_overlap: true.",
        )
    train, calibration_set = split_calibration(rows, recipe.data.calibration_share, recipe.seed)
    # Checked again: the held-out groups may have had the only rows of a label.
    check_all_labels_occur(recipe, train, _describe_training_part(training_recipe))
    left_out = {"train": loaded.left_out, "eval": loaded_evaluation.left_out}
    dev = load_rows(recipe, recipe.data.dev).examples if recipe.data.dev else []
    return Splits(train, evaluation, overlap, calibration_set, left_out, dev)


def _describe_training_part(recipe: Recipe) -> str:
    data = recipe.data
    shares = {
        f"evaluation share of {data.eval_share:g}": data.shares_rows,
        f"held-out share of {data.calibration_share:g}": bool(data.calibration_share),
    }
    without = " and ".join(f"the {share}" for share, is_used in shares.items() if is_used)
    return describe(data.train) + (f" without {without}" if without else "")
