"""Trees split at the root: every node attends to the same nodes as in the complete tree, with fewer scores."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.batching.test_prefix_tree import branches
from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree
from toolkit.batching.root_split import RootSplit, split_at_root


@st.composite
def trees(draw: st.DrawFn) -> PrefixTree:
    """Draw trees with one or several roots, with or without an instruction and nodes that only pad the length."""
    instruction = draw(st.lists(st.integers(0, 3), max_size=20))
    drawn = [
        Branch([*instruction, *branch.tokens], len(instruction) + branch.max_shared, branch.owner)
        for branch in draw(branches())
    ]
    if draw(st.booleans()):
        drawn = drawn[:1]
    return build_tree(drawn).with_length_multiple_of(draw(st.sampled_from([1, 2, 16, 128])))


def slots_of(split: RootSplit) -> dict[int, int]:
    """Return the node of each slot that has one."""
    return {int(slot): split.path_length + i for i, slot in enumerate(split.node_slots)}


def dense_mask(split: RootSplit) -> np.ndarray:
    """Build the mask of all pairs of nodes from the path and the groups."""
    path, (groups, width) = split.path_length, split.slots.shape
    nodes = path + len(split.node_slots)
    mask = np.zeros((nodes, nodes), bool)
    mask[:path, :path] = np.tri(path, dtype=bool)
    node_of = slots_of(split)
    for slot, node in node_of.items():
        group, index = divmod(slot, width)
        assert group < groups and path + split.slots[group, index] == node
        row = split.mask[group, index]
        mask[node, :path] = row[:path]
        for key in np.flatnonzero(row[path:]):
            mask[node, node_of[group * width + int(key)]] = True  # KeyError if a node sees an empty slot
    return mask


@given(trees())
def test_split_equals_the_ancestor_mask(tree: PrefixTree) -> None:
    split = split_at_root(tree)
    actual, expected, real = dense_mask(split), tree.ancestor_mask(), len(tree) - tree.padding
    assert (actual[:real] == expected[:real]).all()
    assert not actual[:real, real:].any(), "a node attends to one that only pads the length"
    # Below the path, nodes that only pad the length attend only to themselves.
    below_path = slice(split.path_length, None)
    assert (actual[real:, below_path] == expected[real:, below_path]).all()


@given(trees())
def test_every_node_has_one_slot(tree: PrefixTree) -> None:
    split = split_at_root(tree)
    assert len(split.node_slots) == len(set(split.node_slots.tolist())) == len(tree) - split.path_length > 0
    assert (split.slots.flatten()[split.node_slots] == np.arange(len(tree) - split.path_length)).all()
    # All nodes descend from the path, and the path is as long as possible.
    real = len(tree) - tree.padding
    assert (tree.ends[: split.path_length] == real).all()
    assert tree.ends[split.path_length] != real or split.path_length >= real - 1


@given(trees())
def test_empty_slots_see_one_key(tree: PrefixTree) -> None:
    """They repeat the first node of their group and attend to it, so a sliding window leaves them a key."""
    split = split_at_root(tree)
    is_empty = np.ones(split.slots.size, bool)
    is_empty[split.node_slots] = False
    is_empty = is_empty.reshape(split.slots.shape)
    assert not is_empty[:, 0].any()
    for group, slots in enumerate(is_empty):
        assert (split.slots[group, slots] == split.slots[group, 0]).all()
        assert (split.mask[group, slots].sum(axis=1) == 1).all() and split.mask[group, slots, split.path_length].all()
    # The softmax of every query has a key.
    assert split.mask.any(axis=2).all()


@given(trees())
def test_split_costs_no_more_than_dense(tree: PrefixTree) -> None:
    """Sizes are rounded up to multiples of 16, as those of a dense mask would be."""
    split = split_at_root(tree)
    groups, width, keys = split.mask.shape
    assert keys % 16 == 0 and keys == split.path_length + width
    assert groups * width * keys <= (len(tree) + 15) ** 2


def large_tree(instruction: int, subtrees: int, seed: int) -> PrefixTree:
    lengths = np.random.default_rng(seed).integers(1, 60, subtrees)
    prompts = [[*range(instruction), 1000 + i, *range(length)] for i, length in enumerate(lengths)]
    return build_tree([Branch(prompt, len(prompt) - 1, i) for i, prompt in enumerate(prompts)])


@pytest.mark.parametrize(("instruction", "saving"), [(0, 20), (100, 20), (1_000, 8)])
def test_large_trees_are_split_quickly(instruction: int, saving: float) -> None:
    """A tree of many rows needs a small part of the scores of a dense mask and is planned within milliseconds."""
    tree = large_tree(instruction, 250, seed=instruction)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        split = split_at_root(tree)
        seconds.append(time.perf_counter() - start)
    assert split.path_length == instruction and split.slots.size < 1.3 * (len(tree) - instruction)
    assert saving * split.mask.size < len(tree) ** 2
    assert min(seconds) < 0.2, "about 0.02 on an idle core"


def test_short_subtrees_share_one_group() -> None:
    """Nodes 0 to 2 are the path. The five subtrees of two and three nodes below it fill 12 of 13 slots."""
    rows = [[1, 2, 3, 10 + i, *[7] * (1 + i % 2)] for i in range(5)]
    split = split_at_root(build_tree([Branch(row, 3, owner) for owner, row in enumerate(rows)]))
    assert split.path_length == 3 and split.slots.shape == (1, 13)
    assert sorted(split.node_slots.tolist()) == list(range(12))


def test_unequal_subtrees_share_a_group() -> None:
    """A second group as wide as the first would need more scores than a dense mask."""
    rows = [[1, *range(850)], [2, *range(120)]]
    split = split_at_root(build_tree([Branch(row, 0, owner) for owner, row in enumerate(rows)]))
    assert split.slots.shape == (1, 976) and split.mask.size <= 976**2


def test_single_chain_has_one_node_below() -> None:
    """The last node of the chain is a group, because a tree without groups would need dedicated code."""
    split = split_at_root(build_tree([Branch([1, 2, 3], 0, 0)]))
    assert split.path_length == 2 and split.slots[0, 0] == 0
    alone = split_at_root(build_tree([Branch([1], 0, 0)]))
    assert alone.path_length == 0 and alone.mask[0, 0].tolist() == [True] + [False] * 15
