"""Prefix trees split at the root, so that attention need not compare every node with every other node.

Most nodes of a tree descend from a long common path: the instruction that all rows share. Within this path, attention
is plain causal attention. The subtrees below it do not attend to each other, so they are packed into groups of at most
W nodes, and each group attends only to the path and to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.batching.prefix_tree import PrefixTree

_KEY_MULTIPLE = 16
"""The number to a multiple of which R + W is rounded up, because memory-efficient attention needs aligned masks."""
_WIDTH_FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""The widths of groups to try, relative to the largest subtree."""


@dataclass(frozen=True)
class RootSplit:
    """A tree of T nodes as a path of R nodes and G groups of W slots, each of which has a node or is empty.

    Attributes:
        slots: The node in each slot, [G, W], int64, counted from the first node below the path. An empty slot repeats
            the first node of its group.
        node_slots: The slot of each node below the path, [T - R], int64, as an index into the flattened `slots`.
        mask: [G, W, R + W], bool: True where the node in a slot attends to a node of the path or of its own group. An
            empty slot attends only to the first slot of its group, whose node it repeats: a softmax over no keys is
            undefined, and a sliding window always contains the node itself. No node attends to an empty slot.
    """

    slots: np.ndarray
    node_slots: np.ndarray
    mask: np.ndarray

    @property
    def path_length(self) -> int:
        """The number of nodes on the common path, R."""
        return self.mask.shape[2] - self.mask.shape[1]


def split_at_root(tree: PrefixTree) -> RootSplit:
    """Split a tree into its common path and groups of subtrees.

    Nodes that only pad the tree's length become subtrees of one node, which also attend to the path.
    """
    path = _path_length(tree)
    starts = _subtree_starts(tree, path)
    sizes = np.diff([*starts, len(tree)])
    groups, width = _pack(sizes, path)
    count = max(groups) + 1
    filled = np.zeros(count, np.int64)
    node_slots, slots = np.empty(len(tree) - path, np.int64), np.full((count, width), -1)
    for start, size, group in zip(starts, sizes, groups, strict=True):
        first = filled[group]
        slots[group, first : first + size] = np.arange(start, start + size)
        node_slots[start - path : start - path + size] = group * width + first + np.arange(size)
        filled[group] += size
    queries, keys = slots[:, :, None], slots[:, None, :]
    # This is the comparison of `PrefixTree.ancestor_mask`, except that -1 marks empty slots.
    own = (keys <= queries) & (queries < tree.ends[keys]) & (keys >= 0)
    mask = np.concatenate([np.ones((count, width, path), bool), own], axis=2)
    is_empty = slots < 0
    mask[is_empty] = np.arange(path + width) == path
    return RootSplit(np.where(is_empty, slots[:, :1], slots) - path, node_slots, mask)


def _path_length(tree: PrefixTree) -> int:
    """Return the number of leading nodes from which all other nodes descend, leaving at least one node below them."""
    nodes = len(tree) - tree.padding
    has_branched = tree.ends[:nodes] != nodes
    path = int(np.argmax(has_branched)) if has_branched.any() else nodes
    return min(path, len(tree) - 1)


def _subtree_starts(tree: PrefixTree, path: int) -> list[int]:
    starts = []
    node = path
    while node < len(tree):
        starts.append(node)
        node = int(tree.ends[node])
    return starts


def _pack(sizes: np.ndarray, path: int) -> tuple[list[int], int]:
    """Return the group of each subtree and the width of the groups, with the fewest attention scores to compute."""
    largest = np.minimum(sizes.max() * np.array(_WIDTH_FACTORS), sizes.sum()).astype(int)
    widths = [int(width) + -(path + int(width)) % _KEY_MULTIPLE for width in largest]
    packings = [(_first_fit(sizes, width), width) for width in dict.fromkeys(widths)]
    return min(packings, key=lambda packing: (max(packing[0]) + 1) * packing[1] * (path + packing[1]))


def _first_fit(sizes: Sequence[int] | np.ndarray, width: int) -> list[int]:
    """Return the group of each subtree: the first one with enough room, when the largest subtrees are placed first."""
    groups, room = [0] * len(sizes), np.full(len(sizes), width)
    for index in np.argsort(-np.asarray(sizes), kind="stable"):
        groups[index] = int(np.argmax(room >= sizes[index]))
        room[groups[index]] -= sizes[index]
    return groups
