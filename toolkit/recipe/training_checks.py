"""Mistakes in keys about dev rows and class weights, which depend on several sections of a recipe."""

from collections.abc import Iterator
from typing import Any

from toolkit.recipe.labels import find_equal, normalize_label, suggest_label
from toolkit.utils.formatting import join_names


def find_training_errors(recipe: Any) -> list[str]:
    """Find keys that need dev rows where there are none, and class weights that do not fit the labels.

    Args:
        recipe: A `toolkit.recipe.schema.Recipe` (that module imports this one, so its type cannot be named here).

    Returns:
        One message per key, of the form `key: sentence`.
    """
    return [*_dev_errors(recipe), *_class_weight_errors(recipe)]


def _dev_errors(recipe: Any) -> Iterator[str]:
    data, training = recipe.data, recipe.training
    if data.dev is not None and data.dev_share:
        yield "data.dev_share: has no effect next to data.dev; leave out one of the two"
    if data.has_dev:
        return
    advice = "set data.dev or data.dev_share, or leave it out"
    if training.keep == "best":
        yield f"training.keep: best needs dev rows to choose the best step; {advice}"
    if training.early_stopping_patience is not None:
        yield f"training.early_stopping_patience: needs dev rows to detect when to stop; {advice}"
    if isinstance(training.eval_steps, int):
        yield f"training.eval_steps: needs dev rows to validate on; {advice}"


def _class_weight_errors(recipe: Any) -> Iterator[str]:
    weights, labels = recipe.training.class_weights, recipe.task.labels
    if isinstance(weights, str):
        return
    known = {normalize_label(label) for label in labels}
    if unknown := [label for label in weights if normalize_label(label) not in known]:
        yield (
            f"training.class_weights: {unknown[0]!r} is not one of the labels [{join_names(map(repr, labels))}]"
            f"{suggest_label(unknown[0], labels)}"
        )
    elif pair := find_equal(weights):
        yield f"training.class_weights: {pair[0]!a} and {pair[1]!a} are the same label; keep one of them"
