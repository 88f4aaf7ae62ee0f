"""The splits of a recipe's data: training rows, dev rows, evaluation rows and the calibration set."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.data.example import Example
from toolkit.data.examples import LoadedRows, check_all_labels_occur, fingerprint, label_counts, load_rows
from toolkit.data.group_split import draw_training_rows, split_calibration, split_dev, split_evaluation
from toolkit.data.soft_labels import check_gold_labels
from toolkit.data.sources import describe
from toolkit.errors import DataError
from toolkit.recipe.data_paths import find_files, is_local
from toolkit.recipe.data_section import Source
from toolkit.recipe.inputs import NLI_INPUTS, name_rows, name_texts
from toolkit.recipe.schema import Recipe
from toolkit.utils.formatting import join_names

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 3  # in a message


@dataclass(frozen=True)
class Overlap:
    """Counts of distinct texts that occur in two sets of rows, such as the evaluation rows and the training rows.

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
    """Count the texts that evaluation rows and training rows, or two other sets of rows, share exactly."""
    names = tuple(train[0].inputs) if train else ()
    return Overlap(
        {name: len({row.inputs[name] for row in train} & {row.inputs[name] for row in evaluation}) for name in names},
        len({row.texts for row in train} & {row.texts for row in evaluation}),
    )


@dataclass(frozen=True)
class _NamedRows:
    """Rows and the key of the recipe that they come from, for a message."""

    key: str
    rows: Sequence[Example]


def _check_overlap(recipe: Recipe, first: _NamedRows, second: _NamedRows, consequence: str) -> Overlap:
    """Count the texts that two sets of rows share, and check that no row is in both.

    Raises:
        DataError: If rows are in both and the recipe does not allow it.
    """
    overlap = find_overlap(first.rows, second.rows)
    if overlap.rows and not recipe.data.allow_overlap:
        raise DataError(
            f"{overlap.rows} {name_rows(recipe.task.inputs)} occur in both {first.key} and {second.key}, so "
            f"{consequence}: row {_list_overlapping_rows(first, second)}.",
            hint="Remove them from one of the two, or set data.allow_overlap: true.",
        )
    return overlap


def _list_overlapping_rows(first: _NamedRows, second: _NamedRows) -> str:
    """Return the first rows of `second` that are also in `first`, each with the row there, as text for a message."""
    ids = {row.texts: row.id for row in reversed(first.rows)}
    overlapping = [row for row in second.rows if row.texts in ids]
    return ", ".join(
        f"{row.id:.40} of {second.key} is {ids[row.texts]:.40} of {first.key}" for row in overlapping[:_SHOWN_ROWS]
    ) + (" ..." if len(overlapping) > _SHOWN_ROWS else "")


@dataclass(frozen=True)
class Splits:
    """The checked rows of a recipe, and the overlap between training and evaluation.

    Args:
        train: The rows to train on.
        eval: The evaluation rows.
        overlap: The texts that training rows and evaluation rows share.
        calibration_set: Rows of data.train that are held out of training. They share no group with `train`.
        left_out: The counts in `LoadedRows.left_out`, for train, dev and eval.
        dev: The rows to validate on during training. Empty if the recipe has none.
        dev_overlap: The texts that dev rows share with the rows of `train` and of `eval`. Empty if it was not checked.
    """

    train: list[Example]
    eval: list[Example]
    overlap: Overlap
    calibration_set: list[Example] = field(default_factory=list)
    left_out: Mapping[str, dict[str, int]] = field(default_factory=dict)
    dev: list[Example] = field(default_factory=list)
    dev_overlap: Mapping[str, Overlap] = field(default_factory=dict)

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Return the sources, counts, fingerprints and overlap for run.json."""
        data = recipe.data
        named_rows = [("train", data.train, self.train), ("eval", data.eval, self.eval)]
        if self.calibration_set:
            named_rows.insert(1, ("calibration", data.train, self.calibration_set))
        if self.dev:
            named_rows.insert(1, ("dev", data.train if data.dev is None else data.dev, self.dev))
        record: dict[str, Any] = {
            name: {
                "source": describe(source),
                "rows": len(rows),
                "labels": label_counts(recipe, rows),
                "fingerprint": fingerprint(rows),
                **({"left_out": self.left_out[name]} if self.left_out.get(name) else {}),
            }
            for name, source, rows in named_rows
        }
        if self.dev_overlap:
            record["dev"]["overlap"] = {name: overlap.record() for name, overlap in self.dev_overlap.items()}
        return record | {"overlap": self.overlap.record()}


def load_evaluation_rows(recipe: Recipe, *, is_external: bool = False) -> list[Example]:
    """Load the evaluation rows: data.eval, or with data.eval_share their share of data.train.

    Args:
        recipe: The recipe, which names the source.
        is_external: Whether the recipe was not written for the evaluation rows, see `load_examples`.

    Raises:
        DataError: If rows cannot be loaded or split.
    """
    examples = _load_evaluation(recipe, is_external=is_external).examples
    _check_evaluation_labels(recipe, examples)
    return examples


def _check_evaluation_labels(recipe: Recipe, examples: Sequence[Example]) -> None:
    check_gold_labels(examples, recipe.evaluation.merge_labels, describe(recipe.data.eval))


def _load_evaluation(recipe: Recipe, *, is_external: bool) -> LoadedRows:
    if recipe.data.shares_rows:
        return _load_shared_rows(recipe)[1]
    return load_rows(recipe, recipe.data.eval, is_external=is_external)


def _load_shared_rows(recipe: Recipe) -> tuple[LoadedRows, LoadedRows]:
    """Load data.train and split it. Rows that are left out are counted with the training rows."""
    data = recipe.data
    loaded = load_rows(recipe, data.train)
    train, evaluation = split_evaluation(loaded.examples, data.eval_share, _split_seed(recipe))
    return LoadedRows(train, loaded.left_out), LoadedRows(evaluation[: data.eval.limit])


def _split_seed(recipe: Recipe) -> int:
    return recipe.seed if recipe.data.split_seed is None else recipe.data.split_seed


def _with_trained_data(trained_recipe: Recipe | None, recipe: Recipe) -> Recipe:
    """Return the recipe to read the training rows with."""
    if trained_recipe is None or trained_recipe.data.train.path != recipe.data.train.path:
        return recipe
    # Other evaluation rows only change how data.eval is read, unless the training rows were replaced as well. The
    # files with dev rows can have moved, and data.dev_share is the same as in training.
    trained = trained_recipe.data
    names = ("columns", "label_map", "unlabeled", "train_rows", "split_seed")
    fields: dict[str, Any] = {name: getattr(trained, name) for name in names}
    if not trained.shares_rows and not trained.dev_share and trained.train_rows is None:
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=fields)})
    fields |= {"train": trained.train, "eval_share": trained.eval_share}
    if trained.shares_rows and not recipe.data.shares_rows:
        fields["eval"] = trained.eval
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=fields), "seed": trained_recipe.seed})


def _split_dev_rows(recipe: Recipe, rows: list[Example], *, is_trained: bool) -> tuple[list[Example], LoadedRows]:
    """Return the rows of data.train without the dev rows, and the dev rows: data.dev, or a share of the rows."""
    data = recipe.data
    if data.dev is None:
        train, dev = split_dev(rows, data.dev_share, _split_seed(recipe))
        return train, LoadedRows(dev)
    return rows, load_existing_dev_rows(recipe) if is_trained else _load_dev_rows(recipe, data.dev)


def load_existing_dev_rows(recipe: Recipe) -> LoadedRows:
    """Load the rows of data.dev for a trained run, which can do without them; none if its files are missing."""
    source = recipe.data.dev
    if source is None:
        return LoadedRows([])
    files = find_files(source.path) if is_local(source.path) else None
    if files is not None and not (files and all(file.is_file() for file in files)):
        logger.warning(
            "WARNING: data.dev is missing (%s), so its rows are not recognized among the evaluation rows, and no "
            "temperature is fitted on them.",
            describe(source),
        )
        return LoadedRows([])
    return _load_dev_rows(recipe, source)


def _load_dev_rows(recipe: Recipe, source: Source) -> LoadedRows:
    # Dev rows are scored with the task's labels, so evaluation.merge_labels does not apply, and they need no slices.
    evaluation = recipe.evaluation.model_copy(update={"merge_labels": {}, "slice_by": ()})
    loaded = load_rows(recipe.model_copy(update={"evaluation": evaluation}), source)
    check_gold_labels(loaded.examples, (), describe(source))
    return loaded


def _check_dev_rows(
    recipe: Recipe, train: list[Example], dev: list[Example], evaluation: list[Example]
) -> dict[str, Overlap]:
    """Count the texts that dev rows share with other rows, and check that no dev row is a training or evaluation row.

    Raises:
        DataError: If a dev row is one of them and the recipe does not allow it.
    """
    key = "data.dev" if recipe.data.dev is not None else "data.dev_share"
    dev_rows, rows = _NamedRows(key, dev), _NamedRows("data.train", train)
    return {
        "train": _check_overlap(recipe, rows, dev_rows, "validation would reward memorization"),
        "eval": _check_overlap(
            recipe, dev_rows, _NamedRows("data.eval", evaluation), "evaluation rows would affect which step is kept"
        ),
    }


def load_splits(recipe: Recipe, *, is_external: bool = False, trained_recipe: Recipe | None = None) -> Splits:
    """Load all splits, and check that no row is in more than one of train, dev and eval.

    After training, a run can be evaluated on its dev rows, so only training rows must not be evaluation rows.

    Args:
        recipe: The recipe, which names the sources and the shares of data.train to evaluate on and to hold out.
        is_external: Whether the recipe was not written for the evaluation rows, see `load_examples`.
        trained_recipe: The recipe of the run if `recipe` was changed to describe other evaluation rows. The training
            rows are read with its columns, label map, seed, data.eval_share, data.train_rows and dev rows.

    Raises:
        DataError: If rows cannot be loaded or split, or if rows occur in two of the splits and the recipe does not
            allow it.
    """
    training_recipe = _with_trained_data(trained_recipe, recipe)
    is_shared = training_recipe.data.shares_rows
    if is_shared and training_recipe == recipe:
        loaded, loaded_evaluation = _load_shared_rows(recipe)
    else:
        loaded = (
            _load_shared_rows(training_recipe)[0]
            if is_shared
            else load_rows(training_recipe, training_recipe.data.train, is_training=True)
        )
        loaded_evaluation = _load_evaluation(recipe, is_external=is_external)
    rows, loaded_dev = _split_dev_rows(training_recipe, loaded.examples, is_trained=trained_recipe is not None)
    # After the dev rows are split off, so that all points of a learning curve have the same.
    rows = draw_training_rows(rows, training_recipe.data.train_rows, training_recipe.seed)
    evaluation, dev = loaded_evaluation.examples, loaded_dev.examples
    _check_evaluation_labels(recipe, evaluation)
    overlap = _check_overlap(
        recipe,
        _NamedRows("data.train", rows),
        _NamedRows("data.eval", evaluation),
        "the score would reward memorization",
    )
    dev_overlap = _check_dev_rows(recipe, rows, dev, evaluation) if dev and trained_recipe is None else {}
    train, calibration_set = split_calibration(rows, recipe.data.calibration_share, recipe.seed)
    # Checked again: the held-out groups may have had the only rows of a label.
    check_all_labels_occur(recipe, train, _describe_training_part(training_recipe))
    left_out = {"train": loaded.left_out, "dev": loaded_dev.left_out, "eval": loaded_evaluation.left_out}
    return Splits(train, evaluation, overlap, calibration_set, left_out, dev, dev_overlap)


def _describe_training_part(recipe: Recipe) -> str:
    data = recipe.data
    shares = {
        f"evaluation share of {data.eval_share:g}": data.shares_rows,
        f"dev share of {data.dev_share:g}": bool(data.dev_share),
        f"held-out share of {data.calibration_share:g}": bool(data.calibration_share),
    }
    held_out = [f"the {share}" for share, is_used in shares.items() if is_used]
    drawn = "" if data.train_rows is None else f"at most {data.train_rows:,} rows of "
    return drawn + describe(data.train) + (f" without {join_names(held_out, 'and')}" if held_out else "")
