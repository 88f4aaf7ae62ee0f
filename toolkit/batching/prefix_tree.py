"""Prefix trees of token sequences, in which a shared prefix is computed only once.

With causal attention, a token's hidden state depends only on itself and the tokens before it. A node that belongs to
several sequences therefore has the same hidden state as in a separate forward pass over each of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_OWNER_SHIFT = 32
"""Left shift in bits that puts the owner above the token id, so that one int64 holds both."""


@dataclass(frozen=True)
class Branch:
    """One path through the tree.

    Args:
        tokens: The token ids along the path.
        max_shared: The number of leading tokens that branches of other owners may share. The token after them, and
            everything below it, belongs to this owner only.
        owner: The row that the branch belongs to. Branches of one owner share their whole common prefix.
    """

    tokens: Sequence[int]
    max_shared: int
    owner: int


@dataclass(frozen=True)
class PrefixTree:
    """A tree of T nodes in depth-first order, parents before children. All arrays are int64.

    Attributes:
        tokens: Token ids, [T].
        depths: Depth of each node, [T], 0 for a root. These are the position ids.
        ends: Index after the last descendant of each node, [T].
        paths: The nodes of each branch's tokens, in the order in which the branches were given.
        padding: The number of nodes at the end that only pad the tree's length.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    paths: tuple[np.ndarray, ...]
    padding: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestor_mask(self, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the attention mask of some nodes, [nodes, T] bool: True where the row's node attends to the column's.

        A node attends to itself and its ancestors, which are exactly the tokens before it in its own sequence.

        Args:
            nodes: The nodes that attend, [nodes]. All nodes by default.
        """
        keys = np.arange(len(self))
        queries = (keys if nodes is None else nodes)[:, None]
        # In depth-first order the descendants of a node follow it directly, up to its end.
        return (keys <= queries) & (queries < self.ends)

    def with_length_multiple_of(self, multiple: int) -> "PrefixTree":
        """Return the tree with additional roots, so that its number of nodes is a multiple of `multiple`.

        The roots have token 0. In dense attention they attend only to themselves, and in attention split at the root
        also to the common path. No other node attends to them, so they change no result.
        """
        padding = (0, -len(self) % multiple)
        ends = np.concatenate([self.ends, np.arange(len(self), len(self) + padding[1]) + 1])
        return PrefixTree(np.pad(self.tokens, padding), np.pad(self.depths, padding), ends, self.paths, padding[1])


def build_tree(branches: Sequence[Branch]) -> PrefixTree:
    """Merge branches into a tree.

    Raises:
        ValueError: If there are no branches, or a branch is empty or may share all of its tokens.
    """
    if not branches or any(not 0 <= branch.max_shared < len(branch.tokens) for branch in branches):
        raise ValueError("every branch needs at least one token that it does not share")
    keys = [_sort_key(branch) for branch in branches]
    paths: list[np.ndarray] = [np.empty(0, np.int64)] * len(keys)
    tokens, depths, ends = [], [], np.empty(sum(map(len, keys)), np.int64)
    previous, path, size = np.empty(0, np.int64), np.empty(0, np.int64), 0
    # Sorting puts branches with a common prefix next to each other, so each branch is compared only with the previous
    # one, and new nodes are created in depth-first order.
    for index in sorted(range(len(keys)), key=lambda index: keys[index].tolist()):
        key = keys[index]
        common = _common_prefix_length(previous, key)
        ends[path[common:]] = size  # the current path leaves these nodes, so no more descendants follow
        path = np.concatenate([path[:common], np.arange(size, size + len(key) - common)])
        tokens.append(key[common:])
        depths.append(np.arange(common, len(key)))
        paths[index], previous, size = path, key, size + len(key) - common
    ends[path] = size
    ids = np.concatenate(tokens) & ((1 << _OWNER_SHIFT) - 1)
    return PrefixTree(ids, np.concatenate(depths), ends[:size], tuple(paths))


def split_by_nodes(
    prompts: Sequence[Sequence[int]], unshared_nodes: Sequence[int], max_nodes: int
) -> Iterator[list[int]]:
    """Split rows into trees of at most `max_nodes` nodes, keeping rows with a common prefix together.

    Args:
        prompts: The token ids of each row before its completion, at least one. All but the last can be shared.
        unshared_nodes: The number of nodes that each row shares with no other row: the last token of its prompt and
            the descendants of that node.
        max_nodes: The largest number of nodes per tree. A row that exceeds it is yielded as a tree of one row.

    Yields:
        The rows of a tree, as indices into `prompts`.
    """
    tree_rows: list[int] = []
    size, previous = 0, np.empty(0, np.int64)
    for index in sorted(range(len(prompts)), key=lambda index: tuple(prompts[index])):
        shared = np.array(prompts[index][:-1], np.int64)
        added = len(shared) - _common_prefix_length(previous, shared) + unshared_nodes[index]
        if tree_rows and size + added > max_nodes:
            yield tree_rows
            # A new tree contains the whole prompt again: nothing is shared across trees.
            tree_rows, size, added = [], 0, len(shared) + unshared_nodes[index]
        tree_rows.append(index)
        size, previous = size + added, shared
    if tree_rows:
        yield tree_rows


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return the number of leading token ids that all sequences have in common."""
    # A prefix shared by the first and the last sequence in sorted order is shared by every sequence between them.
    first, last = (np.array(choose(map(tuple, sequences)), np.int64) for choose in (min, max))
    return _common_prefix_length(first, last)


def _sort_key(branch: Branch) -> np.ndarray:
    key = np.array(branch.tokens, np.int64)
    # With the owner in its upper bits, the first unshared token never equals another owner's, so paths separate there.
    # The + 1 keeps owner 0 from looking like a shared token.
    key[branch.max_shared] += (branch.owner + 1) << _OWNER_SHIFT
    return key


def _common_prefix_length(first: np.ndarray, second: np.ndarray) -> int:
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter
