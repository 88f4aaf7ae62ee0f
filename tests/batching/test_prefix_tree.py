"""Prefix trees: every row can be read back, what may be shared is shared, and nothing else is seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree, split_by_nodes


@st.composite
def branches(draw: st.DrawFn) -> list[Branch]:
    """Rows over few token ids, so that prefixes meet; each with one to three continuations."""
    drawn = []
    for owner in range(draw(st.integers(1, 8))):
        prompt = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
        for _ in range(draw(st.integers(1, 3))):
            continuation = draw(st.lists(st.integers(0, 2), max_size=3))
            drawn.append(Branch([*prompt, *continuation], len(prompt) - 1, owner))
    return drawn


def walked_mask(tree: PrefixTree) -> np.ndarray:
    """The ancestor mask found by walking the paths."""
    mask = np.zeros((len(tree), len(tree)), bool)
    for path in tree.paths:
        for place, node in enumerate(path):
            mask[node, path[: place + 1]] = True
    return mask


@given(branches())
def test_every_branch_is_a_path_and_sees_itself_alone(drawn: list[Branch]) -> None:
    tree = build_tree(drawn)
    for branch, path in zip(drawn, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == list(branch.tokens)
        assert tree.depths[path].tolist() == list(range(len(path)))
    assert set(np.concatenate(tree.paths).tolist()) == set(range(len(tree)))
    assert (tree.ancestor_mask() == walked_mask(tree)).all()


@given(branches())
def test_exactly_what_may_be_shared_is_shared(drawn: list[Branch]) -> None:
    tree = build_tree(drawn)
    prefixes = {
        (tuple(branch.tokens[: place + 1]), branch.owner if place >= branch.shared else None)
        for branch in drawn
        for place in range(len(branch.tokens))
    }
    assert len(tree) == len(prefixes) <= sum(len(branch.tokens) for branch in drawn)
    owners: dict[int, int] = {}
    for branch, path in zip(drawn, tree.paths, strict=True):
        for node in path[branch.shared :].tolist():
            assert owners.setdefault(node, branch.owner) == branch.owner


def test_rows_of_one_premise_share_it_and_no_more() -> None:
    rows = [[1, 5, 6, 7, 9], [1, 5, 6, 8, 9], [1, 5, 6, 7, 9]]
    tree = build_tree([Branch(row, 4, owner) for owner, row in enumerate(rows)])
    # 1 5 6, then 7 with two 9s below it and 8 with one.
    assert tree.tokens.tolist() == [1, 5, 6, 7, 9, 9, 8, 9]
    assert tree.ends.tolist() == [8, 8, 8, 6, 5, 6, 8, 8]
    assert build_tree([Branch([4], 0, owner) for owner in range(2)]).tokens.tolist() == [4, 4]


@pytest.mark.parametrize("drawn", [[], [Branch([], 0, 0)], [Branch([1, 2], 2, 0)]])
def test_a_branch_without_a_token_of_its_own_is_refused(drawn: list[Branch]) -> None:
    with pytest.raises(ValueError, match="token of its own"):
        build_tree(drawn)


ROW = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 4))


@given(st.lists(ROW, max_size=12), st.integers(1, 30))
def test_trees_hold_every_row_once_within_the_budget(rows: list[tuple[list[int], int]], budget: int) -> None:
    prompts, own = [prompt for prompt, _ in rows], [count for _, count in rows]
    parts = list(split_by_nodes(prompts, own, budget))
    assert sorted(i for part in parts for i in part) == list(range(len(rows)))
    for part in parts:
        # A chain of `own` nodes, the last token of the prompt among them.
        branches = [Branch([*prompts[i], *range(own[i] - 1)], len(prompts[i]) - 1, i) for i in part]
        assert len(build_tree(branches)) <= budget or len(part) == 1


def test_rows_that_begin_alike_come_into_one_tree() -> None:
    prompts = [[1, 2, 9], [5, 6, 9], [1, 2, 8], [5, 6, 8]]
    assert list(split_by_nodes(prompts, [1] * 4, 4)) == [[2, 0], [3, 1]]
