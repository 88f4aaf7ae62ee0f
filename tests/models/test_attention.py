"""Masks of prefix trees for layers with and without sliding windows, and models that cannot compute trees."""

from typing import Any

import pytest
import torch

from tests.models.stand_ins import stand_in_config
from tests.models.window_cases import CASES, WINDOWED, parametrize_cases
from toolkit.batching.collators import tree_inputs
from toolkit.batching.prefix_tree import Branch, build_tree
from toolkit.models.attention import find_tree_problem, prepare_mask, sliding_window
from toolkit.models.backend import AutoConfig

TREE = tree_inputs(build_tree([Branch([1, 2, 3, 4, 5], 4, 0), Branch([1, 2, 6, 7], 3, 1)]))
"""Nodes 0 to 4 are the first branch. The second leaves it after node 1, with nodes 5 and 6 at depths 2 and 3."""
LOWEST = torch.finfo(torch.float32).min


def visible_keys(mask: torch.Tensor) -> list[list[int]]:
    """Return the keys that each query sees."""
    assert mask.dtype == torch.float32 and {*mask.unique().tolist()} <= {0.0, LOWEST}
    return [row.nonzero().flatten().tolist() for row in mask[0, 0] == 0]


def prepare(config: Any) -> Any:
    return prepare_mask(TREE["attention_mask"], torch.float32, config, TREE["position_ids"])


FULL = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 5], [0, 1, 5, 6]]
LAST_TWO = [[0], [0, 1], [1, 2], [2, 3], [3, 4], [1, 5], [5, 6]]
"""The keys in a window of two positions: node 1 is the parent of node 5, although three nodes lie between them."""


def test_windows_count_positions_not_nodes() -> None:
    masks = prepare(stand_in_config("gemma3", sliding_window=2))
    assert visible_keys(masks["full_attention"]) == FULL and visible_keys(masks["sliding_attention"]) == LAST_TWO
    assert visible_keys(prepare(stand_in_config("mistral", sliding_window=2))) == LAST_TWO
    assert visible_keys(prepare(stand_in_config("llama"))) == FULL


def test_unlimited_trees_have_one_mask() -> None:
    """Only models with several types of layers accept a dictionary, and Unsloth's forwards accept none."""
    for window, is_dictionary in ((5, False), (4, True)):
        assert isinstance(prepare(stand_in_config("gemma3", sliding_window=window)), dict) is is_dictionary


def test_cached_prefix_is_in_the_window() -> None:
    """The keys of the prefix come first, and the queries have the last positions."""
    mask = torch.nn.functional.pad(TREE["attention_mask"], (2, 0), value=True)
    positions = torch.cat([torch.arange(2)[None], TREE["position_ids"] + 2], dim=1)
    config = stand_in_config("mistral", sliding_window=3)
    keys = visible_keys(prepare_mask(mask, torch.float32, config, positions))
    assert keys == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [2, 3, 7], [3, 7, 8]]


def test_padded_rows_keep_their_mask() -> None:
    mask = torch.ones(2, 3, dtype=torch.int64)
    assert prepare_mask(mask, torch.float32, stand_in_config("gemma3", sliding_window=1), None) is mask


@parametrize_cases(CASES)
def test_known_families_have_no_problem(case: str) -> None:
    shape, overrides = CASES[case]
    config = stand_in_config(shape, **overrides)
    assert find_tree_problem(config) is None
    assert sliding_window(config) == (16 if case == "gemma3" else 12 if case in WINDOWED else None)


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}, "attend to later tokens"),
        ("llama", {"is_causal": False}, "attend to later tokens"),
        ("qwen3_next", {}, "layers of the type linear_attention"),
        ("llama4_text", {}, "layers of the type chunked_attention"),
        ("mamba", {}, "layers of the type linear_attention"),
    ],
)
def test_other_attention_is_a_problem(model_type: str, fields: dict[str, Any], reason: str) -> None:
    problem = find_tree_problem(AutoConfig.for_model(model_type, **fields))
    assert problem is not None and reason in problem
