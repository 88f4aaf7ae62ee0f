"""The labels as a trie of token ids: every path from the root to a leaf is one label, and nothing else can be said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.errors import RecipeError


@dataclass(frozen=True)
class Edge:
    """One allowed step: `token` may follow `path` (the ids since the end of the prompt)."""

    path: tuple[int, ...]
    token: int


class LabelTrie:
    """Label token sequences, and what their edges' log-probabilities say about the labels.

    Args:
        sequences: token ids of each label, the end-of-turn token included, in the order of the labels.

    Raises:
        RecipeError: a sequence is empty, or equals or begins another one, so that decoding could not tell them apart.
    """

    def __init__(self, sequences: Mapping[str, Sequence[int]]) -> None:
        self.sequences = {label: tuple(ids) for label, ids in sequences.items()}
        self.labels = tuple(self.sequences)
        self._check_unambiguous()
        steps = {Edge(ids[:i], ids[i]): None for ids in self.sequences.values() for i in range(len(ids))}
        self.edges: tuple[Edge, ...] = tuple(steps)
        """Every edge once, parents before children."""
        self.contexts: tuple[tuple[int, ...], ...] = tuple(dict.fromkeys(edge.path for edge in self.edges))
        """The distinct paths after which a token is predicted; the first is the empty one."""
        index = {edge: i for i, edge in enumerate(self.edges)}
        self._label_edges = [
            np.array([index[Edge(ids[:i], ids[i])] for i in range(len(ids))]) for ids in self.sequences.values()
        ]
        self._children = {path: [edge for edge in self.edges if edge.path == path] for path in self.contexts}
        self._index = index

    def _check_unambiguous(self) -> None:
        for label, ids in self.sequences.items():
            if not ids:
                raise RecipeError(f"The verbalizer of label {label!r} has no tokens.", hint="Give it a word.")
            for other_label, other_ids in self.sequences.items():
                if other_label != label and other_ids[: len(ids)] == ids:
                    raise RecipeError(
                        f"The token sequence of label {label!r} begins that of label {other_label!r}, "
                        "so a decoded answer could not be told apart.",
                        hint="Change one of task.verbalizers, or use a chat template that ends the assistant's turn.",
                    )

    def label_log_probs(self, edge_log_probs: np.ndarray) -> np.ndarray:
        """Log-likelihood of each label's whole sequence.

        Args:
            edge_log_probs: [rows, edges], natural logarithms under the full vocabulary, in the order of `edges`.

        Returns:
            [rows, labels], in the order of `labels`.
        """
        return np.stack([edge_log_probs[:, edges].sum(axis=1) for edges in self._label_edges], axis=1)

    def margin(self, edge_log_probs: np.ndarray, label: str, other_label: str) -> float:
        """How much likelier `label` is than `other_label` at the token with which the two part, in nats.

        Args:
            edge_log_probs: [edges], of one row.
        """
        ids, other_ids = self.sequences[label], self.sequences[other_label]
        position = next(
            i for i, (token, other_token) in enumerate(zip(ids, other_ids, strict=False)) if token != other_token
        )
        edges = [Edge(path[:position], path[position]) for path in (ids, other_ids)]
        return float(edge_log_probs[self._index[edges[0]]] - edge_log_probs[self._index[edges[1]]])

    def greedy(self, edge_log_probs: np.ndarray) -> list[str]:
        """Greedy constrained decoding: from the root, the likeliest allowed token at each branch.

        Args:
            edge_log_probs: [rows, edges], as for `label_log_probs`.

        Returns:
            The decoded label of each row; on a tie the label that the recipe names first.
        """
        label_of_path = {ids: label for label, ids in self.sequences.items()}
        decoded = []
        for row in edge_log_probs:
            path: tuple[int, ...] = ()
            while path not in label_of_path:
                best = max(self._children[path], key=lambda edge: row[self._index[edge]])
                path = (*path, best.token)
            decoded.append(label_of_path[path])
        return decoded
