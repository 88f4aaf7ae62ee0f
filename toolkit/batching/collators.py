"""Token ids of rows become the tensors of one optimiser step, in parts that each go through the model at once.

A part names its predictions one by one: at which node, of which token, in how many rows. So the loss is the same
whether rows are padded or merged into a tree, and however a step is parted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree, split_by_nodes
from toolkit.prompts.encoder import EncodedRow

LossOn = Literal["completion", "full_text"]
Row = dict[str, list[int]]
MicroBatch = dict[str, torch.Tensor]
"""`input_ids`, `attention_mask` and, of a tree, `position_ids` for the model; for the loss `nodes`, `targets` and
`weights`, each [predictions]: the place in the flattened input, the token that comes next, and how many rows say so."""


def training_row(row: EncodedRow) -> Row:
    """A row as a trainer's dataset holds it.

    Raises:
        ValueError: it has no prompt to predict from, or no answer to predict.
    """
    if not row.prompt or not row.answer:
        raise ValueError("a training row needs a prompt and an answer")
    return {"prompt": list(row.prompt), "answer": list(row.answer)}


def _first_trained_position(row: Row, loss_on: LossOn) -> int:
    """The first place that predicts a trained token: where the answer begins tells, never a token's value."""
    return 0 if loss_on == "full_text" else len(row["prompt"]) - 1


def _collate_step(micro_batches: list[MicroBatch], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "parts": micro_batches,
        "trained": torch.stack([micro_batch["weights"].sum() for micro_batch in micro_batches]).sum(0, keepdim=True),
        "tokens": torch.tensor([sum(len(row["prompt"]) + len(row["answer"]) for row in rows)]),
    }


@dataclass(frozen=True)
class PaddedCollator:
    """Pads rows at their right to the longest one.

    Args:
        micro_batch_size: rows of a part.
        loss_on: what is trained: the answer alone, or every token.
    """

    micro_batch_size: int
    loss_on: LossOn

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate the rows of one optimiser step.

        Returns:
            `parts`, each with input_ids and attention_mask [rows, longest]; `trained` [1], the predictions of all
            parts; `tokens` [1], the tokens of all rows.
        """
        starts = range(0, len(rows), self.micro_batch_size)
        return _collate_step([self._micro_batch(rows[start : start + self.micro_batch_size]) for start in starts], rows)

    def _micro_batch(self, rows: Sequence[Row]) -> MicroBatch:
        sequences = [[*row["prompt"], *row["answer"]] for row in rows]
        # The last token of a row is predicted but predicts nothing, so it need not be read.
        inputs = [sequence[:-1] for sequence in sequences]
        longest = max(map(len, inputs))
        positions = [
            (i, position)
            for i, row in enumerate(rows)
            for position in range(_first_trained_position(row, self.loss_on), len(inputs[i]))
        ]
        return {
            "input_ids": pad(inputs),
            "attention_mask": pad([[1] * len(sequence) for sequence in inputs]),
            "nodes": torch.tensor([i * longest + position for i, position in positions]),
            "targets": torch.tensor([sequences[i][position + 1] for i, position in positions]),
            "weights": torch.ones(len(positions)),
        }


@dataclass(frozen=True)
class TreeCollator:
    """Merges rows into prefix trees, see `prefix_tree`.

    Args:
        batch_tokens: nodes of a part.
        loss_on: what is trained: the answer alone, or every token.
    """

    batch_tokens: int
    loss_on: LossOn

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Collate the rows of one optimiser step.

        Returns:
            `parts`, each with input_ids and position_ids [1, nodes] and a boolean attention_mask [1, 1, nodes, nodes];
            `trained` and `tokens` as those of padded rows.
        """
        prompts, own_nodes = [row["prompt"] for row in rows], [len(row["answer"]) for row in rows]
        groups = split_by_nodes(prompts, own_nodes, self.batch_tokens)
        return _collate_step([self._micro_batch([rows[i] for i in indices]) for indices in groups], rows)

    def _micro_batch(self, rows: Sequence[Row]) -> MicroBatch:
        tree = build_tree(
            [Branch([*row["prompt"], *row["answer"][:-1]], len(row["prompt"]) - 1, i) for i, row in enumerate(rows)]
        )
        nodes, targets = [], []
        for row, path in zip(rows, tree.paths, strict=True):
            start = _first_trained_position(row, self.loss_on)
            nodes.append(path[start:])
            targets.append(np.array([*row["prompt"], *row["answer"]][start + 1 :]))
        # A shared node is trained by every row that passes through it, to one token or to several.
        pairs = np.stack([np.concatenate(nodes), np.concatenate(targets)])
        (unique_nodes, unique_targets), counts = np.unique(pairs, axis=1, return_counts=True)
        return {
            **tree_inputs(tree),
            "nodes": torch.from_numpy(unique_nodes),
            "targets": torch.from_numpy(unique_targets),
            "weights": torch.from_numpy(counts).float(),
        }


@dataclass(frozen=True)
class NumberedCollator:
    """Tells which rows a step has, for whom a step's numbers come to nothing.

    Args:
        collate: makes the step of rows that have no `number`.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What `collate` makes, and `rows` [rows], their numbers."""
        unnumbered = [{name: value for name, value in row.items() if name != "number"} for row in rows]
        return self.collate(unnumbered) | {"rows": torch.tensor([row["number"] for row in rows])}


def numbered(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their `number`, counted from 0."""
    return [{**row, "number": number} for number, row in enumerate(rows)]


def tree_inputs(tree: PrefixTree) -> MicroBatch:
    """What a model reads of a tree of T nodes: input_ids, position_ids [1, T], attention_mask [1, 1, T, T], bool."""
    return {
        "input_ids": torch.from_numpy(tree.tokens)[None],
        "position_ids": torch.from_numpy(tree.depths)[None],
        "attention_mask": torch.from_numpy(tree.ancestor_mask())[None, None],
    }


def pad(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Stack sequences of ids into [sequences, longest], int64, with 0 at the right of the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(sequence, dtype=torch.long) for sequence in sequences], batch_first=True
    )
