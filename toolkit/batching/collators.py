"""Collators that turn the rows of one optimizer step into micro-batches of tensors.

A micro-batch lists its predictions explicitly: the node that predicts, the target token, and the number of rows that
need this prediction. The loss is therefore the same for padded rows and prefix trees, and however a step is split.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from toolkit.batching.label_targets import (
    LabelTargets,
    TargetSequence,
    count_contexts,
    make_comparison_tensors,
    target_sequences,
)
from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree, split_by_nodes
from toolkit.batching.root_split import split_at_root
from toolkit.prompts.prompt_tokenizer import EncodedRow

LossOn = Literal["completion", "full_text"]
TreeAttention = Literal["split", "dense"]
"""The attention over prefix trees: split at the root, or dense, with one mask of all pairs of nodes."""
Row = dict[str, Any]
"""A row of a trainer's dataset: `prompt` and `answer` as token ids. It has `label_weights`, a weight for each label,
unless its loss is that of one answer with weight 1."""
MicroBatch = dict[str, torch.Tensor]
"""The inputs of one forward pass and its loss.

The model reads `input_ids`, `attention_mask` and, for a tree, the other tensors of `tree_inputs`. The loss reads
`nodes`, `targets` and `weights`, each [predictions]: the index into the flattened `input_ids`, the next token, and the
number of rows in which it comes next, or their total weight. If labels are compared, see
`label_targets.make_comparison_tensors` instead."""


def to_training_row(row: EncodedRow, label_weights: Sequence[float] | None = None) -> Row:
    """Return a row in the form in which a trainer's dataset stores it.

    Args:
        row: The row.
        label_weights: The weight of each label in the loss. None if only the answer counts, with weight 1.

    Raises:
        ValueError: If the prompt or the completion is empty.
    """
    if not row.prompt or not row.answer:
        raise ValueError("a training row needs a prompt and a completion")
    encoded: Row = {"prompt": list(row.prompt), "answer": list(row.answer)}
    return encoded if label_weights is None else encoded | {"label_weights": list(label_weights)}


def _first_trained_position(sequence: TargetSequence, loss_on: LossOn) -> int:
    """Return the first position that predicts a trained token.

    It follows from the prompt's length. Searching for a token such as the end of turn could match one in the prompt.
    """
    # A position predicts the next token, so the last token of the prompt predicts the first of the completion.
    return 0 if loss_on == "full_text" else len(sequence.prompt) - 1


def _collate_step(micro_batches: list[MicroBatch], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "micro_batches": micro_batches,
        "predictions": torch.stack([micro_batch["weights"].sum() for micro_batch in micro_batches]).sum(
            0, keepdim=True
        ),
        "tokens": torch.tensor([sum(len(row["prompt"]) + len(row["answer"]) for row in rows)]),
    }


@dataclass(frozen=True)
class PaddedCollator:
    """A collator that pads rows on the right to the longest row of their micro-batch.

    Args:
        micro_batch_size: The rows per micro-batch.
        loss_on: The tokens to train on: only the completion, or the full text.
        labels: The labels, if rows have weights for them. A micro-batch then has a sequence for each label in use.
        length_multiple: The number to a multiple of which the length of a micro-batch is padded.
    """

    micro_batch_size: int
    loss_on: LossOn
    labels: LabelTargets | None = None
    length_multiple: int = 1

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate the rows of one optimizer step.

        Returns:
            `micro_batches`: The micro-batches, with input_ids and attention_mask [rows, longest].
            `predictions`: The number of predictions in the step, [1].
            `tokens`: The number of tokens in the step, [1].
        """
        starts = range(0, len(rows), self.micro_batch_size)
        return _collate_step([self._micro_batch(rows[start : start + self.micro_batch_size]) for start in starts], rows)

    def _micro_batch(self, rows: Sequence[Row]) -> MicroBatch:
        sequences = target_sequences(rows, self.labels)
        texts = [[*sequence.prompt, *sequence.answer] for sequence in sequences]
        # The last token of a row is only a target. Nothing is predicted after it, so the model does not read it.
        inputs = [text[:-1] for text in texts]
        longest = max(map(len, inputs))
        longest += -longest % self.length_multiple
        positions = [
            (i, position)
            for i, sequence in enumerate(sequences)
            for position in range(_first_trained_position(sequence, self.loss_on), len(inputs[i]))
        ]
        masks = [[1] * len(text) for text in inputs]
        nodes = [i * longest + position for i, position in positions]
        targets = [texts[i][position + 1] for i, position in positions]
        tensors = {name: pad(ids, longest) for name, ids in (("input_ids", inputs), ("attention_mask", masks))}
        if self.labels is not None and self.labels.objective == "labels":
            return tensors | make_comparison_tensors(np.array(nodes), np.array(targets), rows, self.labels)
        return tensors | {
            "nodes": torch.tensor(nodes),
            "targets": torch.tensor(targets),
            "weights": torch.tensor([sequences[i].weight for i, _ in positions], dtype=torch.float32),
        }


@dataclass(frozen=True)
class TreeCollator:
    """A collator that merges rows into prefix trees; see `prefix_tree`.

    Args:
        batch_tokens: The largest number of nodes per micro-batch.
        loss_on: The tokens to train on: only the completion, or the full text.
        length_multiple: The number to a multiple of which trees are padded, see `PrefixTree.with_length_multiple_of`.
        attention: The attention to make the micro-batches for.
        dense_nodes: The largest tree, in nodes, that gets dense attention whatever `attention` is.
        labels: The labels, if rows have weights for them. A tree then has a branch for each label in use.
    """

    batch_tokens: int
    loss_on: LossOn
    length_multiple: int = 1
    attention: TreeAttention = "split"
    dense_nodes: int = 0
    labels: LabelTargets | None = None

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate the rows of one optimizer step.

        Returns:
            `micro_batches`: The micro-batches, each one tree, see `tree_inputs`.
            `predictions` and `tokens`: The same as for padded rows.
        """
        # A row does not share the last token of its prompt. Its completion then adds all tokens but the last, which
        # makes as many unshared nodes as the completion has tokens.
        prompts, unshared_nodes = [row["prompt"] for row in rows], [count_contexts(row, self.labels) for row in rows]
        groups = split_by_nodes(prompts, unshared_nodes, self.batch_tokens)
        return _collate_step([self._micro_batch([rows[i] for i in indices]) for indices in groups], rows)

    def _micro_batch(self, rows: Sequence[Row]) -> MicroBatch:
        sequences = target_sequences(rows, self.labels)
        tree = build_tree(
            [Branch([*text.prompt, *text.answer[:-1]], len(text.prompt) - 1, text.row) for text in sequences]
        )
        nodes, targets, weights = [], [], []
        for sequence, path in zip(sequences, tree.paths, strict=True):
            start = _first_trained_position(sequence, self.loss_on)
            nodes.append(path[start:])
            targets.append(np.array([*sequence.prompt, *sequence.answer][start + 1 :]))
            weights.append(np.full(len(path) - start, sequence.weight))
        tensors = self._predictions(np.concatenate(nodes), np.concatenate(targets), np.concatenate(weights), rows)
        tree = tree.with_length_multiple_of(self.length_multiple)
        attention = "dense" if len(tree) <= self.dense_nodes else self.attention
        return {**tree_inputs(tree, tensors["nodes"].numpy(), attention), **tensors}

    def _predictions(
        self, nodes: np.ndarray, targets: np.ndarray, weights: np.ndarray, rows: Sequence[Row]
    ) -> MicroBatch:
        if self.labels is not None and self.labels.objective == "labels":
            return make_comparison_tensors(nodes, targets, rows, self.labels)
        # With full_text, a shared node predicts the next token of every row that passes through it. Equal predictions
        # are merged into one with a weight, and different next tokens stay separate predictions of the same node.
        (unique_nodes, unique_targets), inverse = np.unique(np.stack([nodes, targets]), axis=1, return_inverse=True)
        return {
            "nodes": torch.from_numpy(unique_nodes),
            "targets": torch.from_numpy(unique_targets),
            "weights": torch.from_numpy(np.bincount(inverse.ravel(), weights)).float(),
        }


@dataclass(frozen=True)
class NumberedCollator:
    """A collator that adds row numbers to a step, so that NaN or inf can be traced to the rows that caused it.

    Args:
        collate: The collator of the step. It receives the rows without their `number`.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the output of `collate` and the row numbers as `rows`, [rows]."""
        unnumbered = [{name: value for name, value in row.items() if name != "number"} for row in rows]
        return self.collate(unnumbered) | {"rows": torch.tensor([row["number"] for row in rows])}


def number_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add a `number` to each row, counted from 0."""
    return [{**row, "number": number} for number, row in enumerate(rows)]


_MAX_QUERY_MASK = 2**23
"""The largest `query_mask`, in elements.

Building a larger one on the CPU is expected to take longer than a smaller last layer saves. This was not measured."""


def tree_inputs(tree: PrefixTree, predicting: np.ndarray, attention: TreeAttention) -> MicroBatch:
    """Return the model inputs of a tree with T nodes.

    Args:
        tree: The tree.
        predicting: The nodes whose final hidden states are needed, with or without repetition.
        attention: The attention to make the inputs for.

    Returns:
        `input_ids` and `position_ids`, [1, T], and `attention_mask`. For dense attention, this is [1, 1, T, T], bool.

        Attention split at the root has a mask for each of G groups of W slots below a path of R nodes, [G, 1, W,
        R + W], bool, and the indices `slots` and `node_slots`; see `root_split`. If at most half of the nodes predict,
        and the mask is not too large, there are also these N nodes as `queries`, [N], in ascending order, and their
        `query_mask`, [1, 1, N, T], bool.
    """
    inputs = {
        "input_ids": torch.from_numpy(tree.tokens)[None],
        # A node's position is its depth, as in its own sequence, and not its index among the nodes of the tree.
        "position_ids": torch.from_numpy(tree.depths)[None],
    }
    if attention == "dense":
        return inputs | {"attention_mask": torch.from_numpy(tree.ancestor_mask())[None, None]}
    split = split_at_root(tree)
    inputs |= {
        "attention_mask": torch.from_numpy(split.mask)[:, None],
        "slots": torch.from_numpy(split.slots),
        "node_slots": torch.from_numpy(split.node_slots),
    }
    queries = np.unique(predicting)
    if 2 * len(queries) <= len(tree) and len(queries) * len(tree) <= _MAX_QUERY_MASK:
        inputs["queries"] = torch.from_numpy(queries)
        inputs["query_mask"] = torch.from_numpy(tree.ancestor_mask(queries))[None, None]
    return inputs


def pad(sequences: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Stack sequences of ids into [sequences, length], int64, padded with 0 on the right."""
    rows = [[*sequence, *[0] * (length - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.long)  # torch would make floats of rows without tokens
