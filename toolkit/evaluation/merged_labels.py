"""Labels that an evaluation measures as one, e.g. neutral and contradiction as not_entailment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from toolkit.data.example import Example
from toolkit.evaluation.calibration import apply_temperature
from toolkit.recipe.labels import normalize_label
from toolkit.recipe.schema import Recipe


@dataclass(frozen=True)
class MergedLabels:
    """The labels of an evaluation: those of the task, some of them merged. By default none are.

    The model scores the labels of the task. Their probabilities are added, and the prediction is the largest sum.

    Args:
        labels: The labels of the task, in the order of the model's scores.
        members: The labels of the task that each merged label consists of.
    """

    labels: tuple[str, ...]
    members: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, recipe: Recipe) -> "MergedLabels":
        """Return the merged labels of a recipe's `evaluation.merge_labels`."""
        spelling = {normalize_label(label): label for label in recipe.task.labels}
        return cls(
            recipe.task.labels,
            {
                name: tuple(spelling[normalize_label(label)] for label in labels)
                for name, labels in recipe.evaluation.merge_labels.items()
            },
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The labels after merging, in the order in which their first label is in `labels`."""
        return tuple(dict.fromkeys(map(self.name, self.labels)))

    @cached_property
    def _name_of(self) -> dict[str, str]:
        return {label: name for name, labels in self.members.items() for label in labels}

    def name(self, label: str) -> str:
        """Return the merged label that a label of the task belongs to, or the label itself."""
        return self._name_of.get(label, label)

    def rename(self, examples: Sequence[Example]) -> list[Example]:
        """Return rows with their merged labels. Rows that have the name of a merged label keep it."""
        if not self.members:
            return list(examples)
        return [replace(example, label=self.name(example.label)) for example in examples]

    def log_probabilities(self, log_likelihoods: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return the log-probabilities [rows, names]. The temperature acts before probabilities are added.

        Args:
            log_likelihoods: [rows, labels], normalized or not.
            temperature: The temperature, see `apply_temperature`.
        """
        log_probabilities = apply_temperature(log_likelihoods, temperature)
        if not self.members:
            return log_probabilities
        index_of = {name: i for i, name in enumerate(self.names)}
        columns = np.array([index_of[self.name(label)] for label in self.labels])
        return np.stack([logsumexp(log_probabilities[:, columns == i], axis=1) for i in index_of.values()], axis=1)

    def predict(self, decoded: Sequence[str | None], log_likelihoods: np.ndarray | None) -> list[str | None]:
        """Return the predicted label of each row.

        Args:
            decoded: The label of the task that was decoded, None for an answer that is not a label.
            log_likelihoods: [rows, labels]; None in free mode, where an answer is replaced by its merged label.
        """
        if not self.members:
            return list(decoded)
        if log_likelihoods is None:
            return [None if label is None else self.name(label) for label in decoded]
        names = self.names
        # Two labels can be more probable together than the most probable label.
        return [names[i] for i in self.log_probabilities(log_likelihoods).argmax(axis=1)]

    def is_correct(self, gold: str, label: str) -> bool:
        """Return whether a label of the task is the gold label, or belongs to the merged label of a row."""
        return label == gold or label in self.members.get(gold, ())

    def record(self) -> dict[str, Any]:
        """Return the field of metrics.json, or nothing if no labels are merged."""
        merged = {name: list(labels) for name, labels in self.members.items()}
        return {"merge_labels": merged} if merged else {}
