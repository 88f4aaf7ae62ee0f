"""Masks of dense and split attention over prefix trees, for layers with and without sliding windows."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.stand_ins import stand_in_config
from toolkit.batching.collators import tree_inputs
from toolkit.batching.prefix_tree import Branch, PrefixTree, build_tree
from toolkit.models.attention import layer_types, sliding_window
from toolkit.models.tree_layout import TreeLayer, model_inputs

TREE = build_tree([Branch([1, 2, 3, 4, 5], 4, 0), Branch([1, 2, 6, 7], 3, 1)])
"""Nodes 0 to 4 are the first branch. The second leaves it after node 1, with nodes 5 and 6 at depths 2 and 3."""
DENSE = tree_inputs(TREE, np.arange(len(TREE)), "dense")
LOWEST = torch.finfo(torch.float32).min
FULL = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 5], [0, 1, 5, 6]]
LAST_TWO = [[0], [0, 1], [1, 2], [2, 3], [3, 4], [1, 5], [5, 6]]
"""The keys in a window of two positions: node 1 is the parent of node 5, although three nodes lie between them."""


def visible_keys(mask: torch.Tensor) -> list[list[int]]:
    """Return the keys that each query sees."""
    assert mask.dtype == torch.float32 and {*mask.unique().tolist()} <= {0.0, LOWEST}
    return [row.nonzero().flatten().tolist() for row in mask[0, 0] == 0]


def dense_masks(config: Any, prefix_length: int = 0) -> Any:
    return model_inputs(DENSE, config, torch.float32, prefix_length)["attention_mask"]


def test_windows_count_positions_not_nodes() -> None:
    masks = dense_masks(stand_in_config("gemma3", sliding_window=2))
    assert visible_keys(masks["full_attention"]) == FULL and visible_keys(masks["sliding_attention"]) == LAST_TWO
    assert visible_keys(dense_masks(stand_in_config("mistral", sliding_window=2))) == LAST_TWO
    assert visible_keys(dense_masks(stand_in_config("llama"))) == FULL


def test_unlimited_trees_have_one_mask() -> None:
    """Only models with several types of layers accept a dictionary, and Unsloth's forwards accept none."""
    for window, is_dictionary in ((5, False), (4, True)):
        assert isinstance(dense_masks(stand_in_config("gemma3", sliding_window=window)), dict) is is_dictionary


def test_cached_prefix_is_in_the_window() -> None:
    """The keys of the prefix come first, and the queries have the last positions."""
    config = stand_in_config("mistral", sliding_window=3)
    assert model_inputs(DENSE, config, torch.float32, 2)["position_ids"].tolist() == [[2, 3, 4, 5, 6, 4, 5]]
    keys = visible_keys(dense_masks(config, 2))
    assert keys == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [2, 3, 7], [3, 7, 8]]


def test_padded_rows_keep_their_mask() -> None:
    rows = {
        "input_ids": torch.ones(2, 3, dtype=torch.int64),
        "attention_mask": torch.ones(2, 3),
        "nodes": torch.ones(1),
    }
    inputs = model_inputs(rows, stand_in_config("gemma3", sliding_window=1), torch.float32)
    assert inputs.keys() == {"input_ids", "attention_mask"} and inputs["attention_mask"] is rows["attention_mask"]


def random_tree(seed: int, instruction: int = 9) -> PrefixTree:
    """Return a tree of some rows below a common path, with nodes that pad its length."""
    generator = np.random.default_rng(seed)
    rows = [
        [*range(instruction), *generator.integers(0, 3, generator.integers(2, 12)).tolist()]
        for _ in range(generator.integers(2, 9))
    ]
    return build_tree([Branch(row, len(row) - 1, i) for i, row in enumerate(rows)]).with_length_multiple_of(
        int(generator.choice([1, 32]))
    )


def layer_mask(layer: TreeLayer, nodes: int, prefix_length: int, heads: int) -> torch.Tensor:
    """Return the mask of a layer for all pairs of nodes, [T, P + T] bool, read as the attention does."""
    below = len(layer.node_slots)
    path, width = nodes - below, layer.slots.shape[1]
    pairs = torch.zeros(nodes, prefix_length + nodes, dtype=torch.bool)

    def of_one_head(mask: torch.Tensor) -> torch.Tensor:
        first, *others = (mask == 0).chunk(heads, dim=2)
        assert all(torch.equal(first, other) for other in others) and {*mask.unique().tolist()} <= {0.0, LOWEST}
        return first[:, 0]

    if layer.path_mask is None:
        assert prefix_length == 0
        pairs[:path, :path] = torch.ones(path, path).tril() > 0
    elif path:
        pairs[:path, : prefix_length + path] = of_one_head(layer.path_mask)[0]
    groups = of_one_head(layer.group_mask)
    assert groups.any(dim=2).all(), "a softmax over no key"
    node_of = dict(zip(layer.node_slots.tolist(), range(path, nodes), strict=True))
    for slot, node in node_of.items():
        group, index = divmod(slot, width)
        row = groups[group, index]
        pairs[node, : prefix_length + path] = row[: prefix_length + path]
        for key in row[prefix_length + path :].nonzero().flatten().tolist():
            pairs[node, prefix_length + node_of[group * width + key]] = True
    if layer.predicting is not None:
        assert layer.predicting.length == nodes
        assert torch.equal(of_one_head(layer.predicting.mask)[0], pairs[layer.predicting.nodes])
    return pairs


@pytest.mark.parametrize("prefix_length", [0, 5])
@pytest.mark.parametrize("predicting", ["few", "most"])
@pytest.mark.parametrize(
    ("shape", "window"),
    [("llama", None), ("croissant", None), ("mistral", 7), ("gemma3", 7), ("gemma3", 14), ("gemma3", 99)],
)
def test_split_masks_equal_dense_masks(shape: str, window: int | None, predicting: str, prefix_length: int) -> None:
    """In each layer, a node attends to the same keys as with the dense mask of the layer's type."""
    fields: dict[str, Any] = {} if window is None else {"sliding_window": window}
    if window == 99:  # longer than every row, and the last layer's type is not the last one to appear
        fields["layer_types"] = [*layer_types(stand_in_config(shape))[:-1], "sliding_attention"]
    config = stand_in_config(shape, **fields)
    assert sliding_window(config) == window
    heads = config.num_attention_heads // config.num_key_value_heads
    for seed in range(6):
        tree = random_tree(seed, instruction=(9, 0)[seed % 2])
        real = len(tree) - tree.padding
        nodes = np.arange(real)[-3:] if predicting == "few" else np.arange(real)
        micro_batch = tree_inputs(tree, nodes, "split")
        inputs = model_inputs(micro_batch, config, torch.float32, prefix_length)
        layout = inputs["tree_layout"]
        dense = model_inputs(tree_inputs(tree, nodes, "dense"), config, torch.float32, prefix_length)
        assert torch.equal(inputs["position_ids"], dense["position_ids"])
        assert inputs["attention_mask"].numel() == 0, "a model that ignores the layout must fail"
        has_few = [layer.predicting is not None for layer in layout]
        assert has_few == [False] * (config.num_hidden_layers - 1) + [predicting == "few"]
        expected = dense["attention_mask"]
        for layer, name in zip(layout, layer_types(config), strict=True):
            mask = expected[name] if isinstance(expected, dict) else expected
            actual = layer_mask(layer, len(tree), prefix_length, heads)
            assert torch.equal(actual[:real], mask[0, 0, :real] == 0)


def test_causal_paths_have_no_mask() -> None:
    """Without a cached prefix and a window that excludes keys, attention within the path is causal."""
    micro_batch = tree_inputs(TREE, np.array([4, 6]), "split")
    for window, prefix_length, has_mask in ((None, 0, False), (99, 0, False), (2, 0, True), (None, 3, True)):
        config = stand_in_config("mistral", sliding_window=window)
        layout = model_inputs(micro_batch, config, torch.float32, prefix_length)["tree_layout"]
        assert [layer.path_mask is not None for layer in layout] == [has_mask] * 2
        assert [layer.predicting is not None for layer in layout] == [False, True]
