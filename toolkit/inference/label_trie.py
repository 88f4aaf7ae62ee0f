"""A trie of label token ids, in which every path from the root to a leaf is one label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.errors import RecipeError


@dataclass(frozen=True)
class Edge:
    """A step in the trie: after the ids of `path`, which follow the prompt, `token` is allowed."""

    path: tuple[int, ...]
    token: int


class LabelTrie:
    """The token sequences of the labels, and the conversion of edge log-probabilities into label scores.

    Args:
        sequences: The token ids of each label including the end-of-turn token, in the order of the labels.

    Raises:
        RecipeError: If a sequence is empty, or equals another one or is a prefix of it, which would make decoding
            ambiguous.
    """

    def __init__(self, sequences: Mapping[str, Sequence[int]]) -> None:
        self.sequences = {label: tuple(ids) for label, ids in sequences.items()}
        self.labels = tuple(self.sequences)
        self._check_unambiguous()
        # A dictionary, unlike a set, keeps the order of the labels.
        steps = {Edge(ids[:i], ids[i]): None for ids in self.sequences.values() for i in range(len(ids))}
        self.edges: tuple[Edge, ...] = tuple(steps)
        """Every edge once, parents before children."""
        self.contexts: tuple[tuple[int, ...], ...] = tuple(dict.fromkeys(edge.path for edge in self.edges))
        """The distinct paths after which a token is predicted, starting with the empty path."""
        index = {edge: i for i, edge in enumerate(self.edges)}
        self._label_edges = [
            np.array([index[Edge(ids[:i], ids[i])] for i in range(len(ids))]) for ids in self.sequences.values()
        ]
        self._children: dict[tuple[int, ...], list[Edge]] = {}
        for edge in self.edges:
            self._children.setdefault(edge.path, []).append(edge)
        self._index = index

    def _check_unambiguous(self) -> None:
        # By prefix, because comparing every label with every other one takes seconds for a thousand labels.
        labels_by_prefix: dict[tuple[int, ...], list[str]] = {}
        for label, ids in self.sequences.items():
            for length in range(1, len(ids) + 1):
                labels_by_prefix.setdefault(ids[:length], []).append(label)
        for label, ids in self.sequences.items():
            if not ids:
                raise RecipeError(f"The verbalizer of label {label!r} has no tokens.", hint="Use a word.")
            if other_labels := [other for other in labels_by_prefix[ids] if other != label]:
                raise RecipeError(
                    f"The token sequence of label {label!r} is a prefix of that of label {other_labels[0]!r}, "
                    "so decoding would be ambiguous.",
                    hint="Change one of task.verbalizers, or use a chat template that ends the assistant's turn.",
                )

    def label_log_probs(self, edge_log_probs: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of each label's complete sequence.

        Args:
            edge_log_probs: Natural logarithms under the full vocabulary, [rows, edges], in the order of `edges`.

        Returns:
            Log-likelihoods, [rows, labels], in the order of `labels`.
        """
        return np.stack([edge_log_probs[:, edges].sum(axis=1) for edges in self._label_edges], axis=1)

    def margin(self, edge_log_probs: np.ndarray, label: str, other_label: str) -> float:
        """Return the log-probability of `label` minus that of `other_label` at the first token where they differ.

        Args:
            edge_log_probs: Natural logarithms of one row, [edges].
            label: A label.
            other_label: Another label.
        """
        ids, other_ids = self.sequences[label], self.sequences[other_label]
        position = next(
            i for i, (token, other_token) in enumerate(zip(ids, other_ids, strict=False)) if token != other_token
        )
        edges = [Edge(path[:position], path[position]) for path in (ids, other_ids)]
        return float(edge_log_probs[self._index[edges[0]]] - edge_log_probs[self._index[edges[1]]])

    def greedy(self, edge_log_probs: np.ndarray) -> list[str]:
        """Decode greedily under constraints: from the root, follow the most likely allowed token at each branch.

        Args:
            edge_log_probs: Natural logarithms, [rows, edges], as in `label_log_probs`.

        Returns:
            The decoded label of each row. On a tie it is the label that comes first in the recipe.
        """
        label_of_path = {ids: label for label, ids in self.sequences.items()}
        decoded = []
        for row in edge_log_probs:
            path: tuple[int, ...] = ()
            while path not in label_of_path:
                # `max` returns the first of equal edges, and edges are in the order of the labels.
                best = max(self._children[path], key=lambda edge: row[self._index[edge]])
                path = (*path, best.token)
            decoded.append(label_of_path[path])
        return decoded
