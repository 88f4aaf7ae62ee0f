"""Training targets among the labels of a task: the sequences of a row, and the comparison of their probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch

Objective = Literal["tokens", "labels"]


@dataclass(frozen=True)
class LabelTargets:
    """The sequences of the labels, for rows that have a weight for each label instead of an answer.

    Args:
        sequences: The token ids of each label, including the end-of-turn token.
        objective: tokens: the weighted cross-entropy of the tokens of each label. labels: the cross-entropy of the
            labels, where the probability of a label is that of its sequence among the sequences of all labels.
    """

    sequences: tuple[tuple[int, ...], ...]
    objective: Objective

    def used(self, row: Mapping[str, Any]) -> list[int]:
        """Return the indices of the labels whose sequences a row needs."""
        # Among the labels, the probability of each depends on the sequences of all.
        every = self.objective == "labels"
        return [label for label, weight in enumerate(row["label_weights"]) if every or weight]


@dataclass(frozen=True)
class TargetSequence:
    """A prompt and an answer to train on.

    Args:
        row: The index of its row, which can have several sequences.
        prompt: The token ids of the prompt.
        answer: The token ids of the answer.
        weight: The weight of its predictions in the loss.
    """

    row: int
    prompt: Sequence[int]
    answer: Sequence[int]
    weight: float = 1.0


def target_sequences(rows: Sequence[Mapping[str, Any]], labels: LabelTargets | None) -> list[TargetSequence]:
    """Return the sequences of rows, by row and then by label."""
    if labels is None:
        return [TargetSequence(i, row["prompt"], row["answer"]) for i, row in enumerate(rows)]
    return [
        TargetSequence(i, row["prompt"], labels.sequences[label], row["label_weights"][label])
        for i, row in enumerate(rows)
        for label in labels.used(row)
    ]


def limit_labels(
    rows: Sequence[dict[str, Any]], labels: LabelTargets, count: int
) -> tuple[list[dict[str, Any]], LabelTargets]:
    """Return rows with only the `count` labels that have the largest weight in them, and these labels."""
    weights = np.array([row["label_weights"] for row in rows])
    kept = np.sort(np.argsort(-weights.sum(axis=0), kind="stable")[:count])
    limited = [row | {"label_weights": weights[i, kept].tolist()} for i, row in enumerate(rows)]
    return limited, LabelTargets(tuple(labels.sequences[label] for label in kept), labels.objective)


def count_contexts(row: Mapping[str, Any], labels: LabelTargets | None) -> int:
    """Return the number of positions of a row at which a token of its answers is predicted."""
    if labels is None:
        return len(row["answer"])
    sequences = [labels.sequences[label] for label in labels.used(row)]
    return len({sequence[:i] for sequence in sequences for i in range(len(sequence))})


def make_comparison_tensors(
    nodes: np.ndarray, targets: np.ndarray, rows: Sequence[Mapping[str, Any]], labels: LabelTargets
) -> dict[str, torch.Tensor]:
    """Return the tensors with which `log_label_probabilities` compares the labels of rows.

    Args:
        nodes: The node that predicts each token of each label of each row, in the order of `target_sequences`.
        targets: These tokens.
        rows: The rows.
        labels: The labels.

    Returns:
        `nodes` [N], the nodes that predict, each once; `predictors` [rows * tokens], the index of each token's node in
        it; `targets` [rows * tokens]; `label_tokens` [labels, longest], the indices of a label's tokens among those of
        a row, padded with their number; `weights` [rows, labels].
    """
    # Labels share nodes, at least the last one of the prompt, and the head is expensive.
    unique_nodes, predictors = np.unique(nodes, return_inverse=True)
    lengths = [len(sequence) for sequence in labels.sequences]
    label_tokens = np.full((len(lengths), max(lengths)), sum(lengths))
    for label, (length, end) in enumerate(zip(lengths, accumulate(lengths), strict=True)):
        label_tokens[label, :length] = np.arange(end - length, end)
    return {
        "nodes": torch.from_numpy(unique_nodes),
        "predictors": torch.from_numpy(predictors),
        "targets": torch.from_numpy(targets),
        "label_tokens": torch.from_numpy(label_tokens),
        "weights": torch.tensor([row["label_weights"] for row in rows], dtype=torch.float32),
    }


def log_label_probabilities(logits: torch.Tensor, micro_batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logarithm of each label's probability among all labels, [rows, labels], float32.

    Args:
        logits: [N, vocabulary], at the nodes of the micro-batch.
        micro_batch: A micro-batch with the tensors of `make_comparison_tensors`.
    """
    log_probs = logits.float().log_softmax(dim=-1)[micro_batch["predictors"], micro_batch["targets"]]
    # A label's log-likelihood is the sum over its tokens. Padding points at an additional token of probability 1.
    by_row = torch.nn.functional.pad(log_probs.view(len(micro_batch["weights"]), -1), (0, 1))
    return by_row[:, micro_batch["label_tokens"]].sum(dim=-1).log_softmax(dim=-1)
