"""The weight of each label in the loss of each training row: soft labels, label smoothing and class weights."""

from collections.abc import Sequence

import numpy as np

from toolkit.data.example import Example
from toolkit.recipe.labels import normalize_label
from toolkit.recipe.schema import Recipe


def target_weights(recipe: Recipe, examples: Sequence[Example], *, always: bool = False) -> np.ndarray | None:
    """Return the weight of each label in the loss of each row, which is at least 0.

    A row's weight is the mean of its labels' class weights, and label smoothing divides a share of it equally among all
    labels (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    Args:
        recipe: The recipe, with its labels and its training section.
        examples: The training rows.
        always: Whether to return weights even if each row has a single label of weight 1.

    Returns:
        [rows, labels], float64. None if each row has a single label of weight 1.
    """
    training = recipe.training
    is_soft = any(example.soft_label for example in examples)
    if not always and not is_soft and not training.label_smoothing and training.class_weights == "none":
        return None
    probabilities = _label_probabilities(recipe, examples)
    row_weights = probabilities @ np.array(resolve_class_weights(recipe, examples))
    smoothing, labels = training.label_smoothing, probabilities.shape[1]
    return row_weights[:, None] * ((1 - smoothing) * probabilities + smoothing / labels)


def resolve_class_weights(recipe: Recipe, examples: Sequence[Example]) -> tuple[float, ...]:
    """Return the weight of each label's rows, in the order of the labels.

    A label that `training.class_weights` does not list has 1. `balanced` is scikit-learn's rule, rows / (labels * rows
    of the label): each label then has the same total weight, and the mean weight of a row is 1. A soft label counts
    with its probabilities.
    """
    setting, labels = recipe.training.class_weights, recipe.task.labels
    if setting == "none":
        return (1.0,) * len(labels)
    if setting == "balanced":
        counts = _label_probabilities(recipe, examples).sum(axis=0)
        return tuple((len(examples) / (len(labels) * counts)).tolist())
    given = {normalize_label(label): weight for label, weight in setting.items()}
    return tuple(given.get(normalize_label(label), 1.0) for label in labels)


def _label_probabilities(recipe: Recipe, examples: Sequence[Example]) -> np.ndarray:
    labels = recipe.task.labels
    one_hot = dict(zip(labels, np.eye(len(labels)), strict=True))
    return np.array([example.soft_label or one_hot[example.label] for example in examples])
