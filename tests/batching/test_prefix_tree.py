"""Prefix trees: every row can be read back, exactly the shareable tokens are shared, and masks show only ancestors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree, split_by_nodes


@st.composite
def branches(draw: st.DrawFn) -> list[Branch]:
    """Draw rows from few token ids, so that prefixes coincide, each with one to three continuations."""
    drawn = []
    for owner in range(draw(st.integers(1, 8))):
        prompt = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
        for _ in range(draw(st.integers(1, 3))):
            continuation = draw(st.lists(st.integers(0, 2), max_size=3))
            drawn.append(Branch([*prompt, *continuation], len(prompt) - 1, owner))
    return drawn


def mask_from_paths(tree: PrefixTree) -> np.ndarray:
    """Build the ancestor mask by walking the paths."""
    mask = np.zeros((len(tree), len(tree)), bool)
    for path in tree.paths:
        for position, node in enumerate(path):
            mask[node, path[: position + 1]] = True
    return mask


@given(branches())
def test_every_branch_is_a_path(drawn: list[Branch]) -> None:
    """Each branch can be read back along its path, and a node attends only to its own path."""
    tree = build_tree(drawn)
    for branch, path in zip(drawn, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == list(branch.tokens)
        assert tree.depths[path].tolist() == list(range(len(path)))
    assert set(np.concatenate(tree.paths).tolist()) == set(range(len(tree)))
    assert (tree.ancestor_mask() == mask_from_paths(tree)).all()


@given(branches())
def test_exactly_shareable_tokens_are_shared(drawn: list[Branch]) -> None:
    tree = build_tree(drawn)
    prefixes = {
        (tuple(branch.tokens[: position + 1]), branch.owner if position >= branch.max_shared else None)
        for branch in drawn
        for position in range(len(branch.tokens))
    }
    assert len(tree) == len(prefixes) <= sum(len(branch.tokens) for branch in drawn)
    owners: dict[int, int] = {}
    for branch, path in zip(drawn, tree.paths, strict=True):
        for node in path[branch.max_shared :].tolist():
            assert owners.setdefault(node, branch.owner) == branch.owner


@given(branches(), st.integers(1, 40))
def test_padding_nodes_are_invisible(drawn: list[Branch], multiple: int) -> None:
    tree = build_tree(drawn)
    padded, size = tree.with_length_multiple_of(multiple), len(tree)
    assert 0 <= len(padded) - size < multiple and len(padded) % multiple == 0
    expected = np.eye(len(padded), dtype=bool)
    expected[:size, :size] = tree.ancestor_mask()
    assert (padded.ancestor_mask() == expected).all() and padded.paths == tree.paths
    assert (padded.tokens[:size] == tree.tokens).all() and (padded.depths[:size] == tree.depths).all()


def test_rows_share_their_premise() -> None:
    rows = [[1, 5, 6, 7, 9], [1, 5, 6, 8, 9], [1, 5, 6, 7, 9]]
    tree = build_tree([Branch(row, 4, owner) for owner, row in enumerate(rows)])
    # 1 5 6 is the common prefix. Its children are 7, with two children 9, and 8, with one.
    assert tree.tokens.tolist() == [1, 5, 6, 7, 9, 9, 8, 9]
    assert tree.ends.tolist() == [8, 8, 8, 6, 5, 6, 8, 8]
    assert build_tree([Branch([4], 0, owner) for owner in range(2)]).tokens.tolist() == [4, 4]


@pytest.mark.parametrize("drawn", [[], [Branch([], 0, 0)], [Branch([1, 2], 2, 0)]])
def test_branch_without_unshared_token_is_refused(drawn: list[Branch]) -> None:
    with pytest.raises(ValueError, match="at least one token that it does not share"):
        build_tree(drawn)


ROW = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 4))


@given(st.lists(ROW, max_size=12), st.integers(1, 30))
def test_split_keeps_every_row_within_budget(rows: list[tuple[list[int], int]], max_nodes: int) -> None:
    prompts, unshared_nodes = [prompt for prompt, _ in rows], [count for _, count in rows]
    trees = list(split_by_nodes(prompts, unshared_nodes, max_nodes))
    assert sorted(i for tree_rows in trees for i in tree_rows) == list(range(len(rows)))
    for tree_rows in trees:
        # The unshared nodes are the last token of the prompt and a chain below it.
        branches = [Branch([*prompts[i], *range(unshared_nodes[i] - 1)], len(prompts[i]) - 1, i) for i in tree_rows]
        assert len(build_tree(branches)) <= max_nodes or len(tree_rows) == 1


def test_rows_with_common_prefix_share_a_tree() -> None:
    prompts = [[1, 2, 9], [5, 6, 9], [1, 2, 8], [5, 6, 8]]
    assert list(split_by_nodes(prompts, [1] * 4, 4)) == [[2, 0], [3, 1]]
