"""Token sequences that begin alike, as one tree: what they share is computed once.

Causal attention makes a token's activations depend on the tokens before it alone, so a node that several sequences pass
through has in all of them the activations that each would give it by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_OWNER_SHIFT = 32
"""Bits by which an owner is shifted above the token ids, so that one integer names both."""


@dataclass(frozen=True)
class Branch:
    """One path through the tree.

    Args:
        tokens: the ids to read.
        shared: how many of the leading tokens other owners' branches may share; the next one is this owner's alone,
            and so is all that follows.
        owner: branches of one owner share whatever they have in common.
    """

    tokens: Sequence[int]
    shared: int
    owner: int


@dataclass(frozen=True)
class PrefixTree:
    """T nodes in depth-first order, parents before children; int64 arrays.

    tokens: [T] ids. depths: [T], a first token's is 0: position ids. ends: [T], one past the last node below each node.
    paths: for each branch, in the order given, the node of each of its tokens.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    paths: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestor_mask(self) -> np.ndarray:
        """[T, T] bool: True where the node of the row may look at the node of the column, an ancestor or itself."""
        node = np.arange(len(self))
        # In depth-first order the nodes below one are those up to its end.
        return (node[None, :] <= node[:, None]) & (node[:, None] < self.ends[None, :])


def build_tree(branches: Sequence[Branch]) -> PrefixTree:
    """Merge branches into a tree.

    Raises:
        ValueError: no branch, an empty one, or one that shares all of its tokens.
    """
    if not branches or any(not 0 <= branch.shared < len(branch.tokens) for branch in branches):
        raise ValueError("every branch needs a token of its own after those it shares")
    keys = [_key(branch) for branch in branches]
    paths: list[np.ndarray] = [np.empty(0, np.int64)] * len(keys)
    tokens, depths, ends = [], [], np.empty(sum(map(len, keys)), np.int64)
    previous, path, size = np.empty(0, np.int64), np.empty(0, np.int64), 0
    # Sorted, branches that begin alike are neighbours, and new nodes come in depth-first order.
    for index in sorted(range(len(keys)), key=lambda index: keys[index].tolist()):
        key = keys[index]
        common = _common_prefix_length(previous, key)
        ends[path[common:]] = size
        path = np.concatenate([path[:common], np.arange(size, size + len(key) - common)])
        tokens.append(key[common:])
        depths.append(np.arange(common, len(key)))
        paths[index], previous, size = path, key, size + len(key) - common
    ends[path] = size
    ids = np.concatenate(tokens) & ((1 << _OWNER_SHIFT) - 1)
    return PrefixTree(ids, np.concatenate(depths), ends[:size], tuple(paths))


def split_by_nodes(prompts: Sequence[Sequence[int]], own_nodes: Sequence[int], max_nodes: int) -> Iterator[list[int]]:
    """Part rows into trees of at most `max_nodes` nodes, rows that begin alike next to each other.

    Args:
        prompts: each row's token ids up to its answer, at least one; all but the last may be shared.
        own_nodes: each row's nodes that are its own: the last token of its prompt and what hangs below it.
        max_nodes: nodes of a tree; a row that is larger by itself makes a tree of its own.

    Yields:
        Indices into `prompts`.
    """
    tree_rows: list[int] = []
    size, previous = 0, np.empty(0, np.int64)
    for index in sorted(range(len(prompts)), key=lambda index: tuple(prompts[index])):
        shared = np.array(prompts[index][:-1], np.int64)
        added = len(shared) - _common_prefix_length(previous, shared) + own_nodes[index]
        if tree_rows and size + added > max_nodes:
            yield tree_rows
            tree_rows, size, added = [], 0, len(shared) + own_nodes[index]
        tree_rows.append(index)
        size, previous = size + added, shared
    if tree_rows:
        yield tree_rows


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading ids all sequences share."""
    # What the first and the last in sorted order share, all share.
    first, last = (np.array(choose(map(tuple, sequences)), np.int64) for choose in (min, max))
    return _common_prefix_length(first, last)


def _key(branch: Branch) -> np.ndarray:
    key = np.array(branch.tokens, np.int64)
    key[branch.shared] += (branch.owner + 1) << _OWNER_SHIFT
    return key


def _common_prefix_length(first: np.ndarray, second: np.ndarray) -> int:
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter
