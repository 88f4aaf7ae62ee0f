"""The inputs of a model for a micro-batch: padded rows, or a prefix tree with its masks."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from toolkit.batching.collators import MicroBatch
from toolkit.models.attention import layer_types, sliding_window


@dataclass(frozen=True)
class PredictingNodes:
    """The nodes of a tree that the last layer computes.

    Args:
        nodes: The N nodes that predict, [N].
        mask: The mask of these nodes, [1, 1, n N, P + T], see `TreeLayer`.
        length: The number of nodes of the tree, T.
    """

    nodes: torch.Tensor
    mask: torch.Tensor
    length: int


@dataclass(frozen=True)
class TreeLayer:
    """A tree of T nodes as one layer computes it, with attention split at the root; see `batching.root_split`.

    The first R nodes are the common path, which can follow P cached tokens. All other nodes are in G groups of W slots.
    Each key head is shared by n query heads, whose queries a mask lists one head after the other. Masks are added to
    the attention scores.

    Args:
        slots: The node in each slot, [G, W], counted from the first node below the path.
        node_slots: The slot of each node below the path, [T - R].
        path_mask: The mask of the path, [1, 1, n R, P + R], or None for plain causal attention.
        group_mask: The masks of the groups, [G, 1, n W, P + R + W].
        predicting: The nodes that the last layer computes, or None for all nodes; see `collators.tree_inputs`.
    """

    slots: torch.Tensor
    node_slots: torch.Tensor
    path_mask: torch.Tensor | None
    group_mask: torch.Tensor
    predicting: PredictingNodes | None = None


def model_inputs(micro_batch: MicroBatch, config: Any, dtype: torch.dtype, prefix_length: int = 0) -> dict[str, Any]:
    """Return the arguments of a model's forward.

    Args:
        micro_batch: Padded rows or a tree, see `batching.collators`.
        config: The configuration of the model.
        dtype: The data type that the model computes in.
        prefix_length: The number of cached tokens before a tree, which all nodes attend to.

    Returns:
        `input_ids` and `attention_mask`, which the model itself limits to its sliding window if rows are padded.

        For a tree also `position_ids`. With attention split at the root, `tree_layout` has a `TreeLayer` for each
        layer, see `tree_attention`. With dense attention, the mask is added to the attention scores. If a model has
        layers with and without a sliding window, and a row of the tree is longer than the window, the masks are in a
        dictionary by type of layer.
    """
    inputs: dict[str, Any] = {name: micro_batch[name] for name in ("input_ids", "attention_mask")}
    if "position_ids" not in micro_batch:
        return inputs
    inputs["position_ids"] = positions = micro_batch["position_ids"] + prefix_length
    # Every node descends from the cached tokens.
    keys = torch.cat([torch.arange(prefix_length, device=positions.device)[None], positions], dim=1)
    masks = {
        name: torch.nn.functional.pad(mask, (prefix_length, 0), value=True)
        for name, mask in micro_batch.items()
        if name in ("attention_mask", "query_mask")
    }
    windows = _windows(config, positions)
    if "slots" in micro_batch:
        inputs["tree_layout"] = _tree_layout(micro_batch | masks, keys, config, windows, dtype)
        # Without a mask, a model creates one. An empty mask makes layers that ignore the layout fail instead.
        inputs["attention_mask"] = torch.zeros(1, 1, 0, 0, dtype=dtype, device=positions.device)
        return inputs
    mask = masks["attention_mask"]
    additive = {
        name: _additive(_limit_to_window(mask, positions, keys, window), dtype) for name, window in windows.items()
    }
    # Only models with several types of layers accept a dictionary.
    inputs["attention_mask"] = additive if len(additive) > 1 else next(iter(additive.values()))
    return inputs


def _windows(config: Any, positions: torch.Tensor) -> dict[str, int | None]:
    """Return the sliding window of each type of layer, in tokens, or a single None if no window excludes a key."""
    types, window = list(dict.fromkeys(layer_types(config))), sliding_window(config)
    if window is None or positions.max() < window:
        return {types[-1]: None}
    return {name: window if name == "sliding_attention" else None for name in types}


def _tree_layout(
    tree: MicroBatch, keys: torch.Tensor, config: Any, windows: dict[str, int | None], dtype: torch.dtype
) -> tuple[TreeLayer, ...]:
    """Return the layers of a tree. Layers of one type share their masks.

    Args:
        tree: The micro-batch, with masks that include the cached tokens.
        keys: The positions of the cached tokens and of the nodes, [1, P + T].
        config: The configuration of the model.
        windows: The sliding window of each type of layer, see `_windows`.
        dtype: The data type that the model computes in.
    """
    text = config.get_text_config()
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    heads_per_key = text.num_attention_heads // key_heads
    nodes, below = tree["position_ids"].shape[1], len(tree["node_slots"])
    path_keys, own_keys = keys.split([keys.shape[1] - below, below], dim=1)
    path, slots = path_keys[:, keys.shape[1] - nodes :], own_keys[0, tree["slots"]]
    group_keys = torch.cat([path_keys.expand(len(slots), -1), slots], dim=1)
    layers = {}
    for name, window in windows.items():
        path_mask = None
        if window is not None or path.shape != path_keys.shape:
            is_earlier = path_keys[:, None, None, :] <= path[:, None, :, None]
            path_mask = _additive(_limit_to_window(is_earlier, path, path_keys, window), dtype, heads_per_key)
        group_mask = _limit_to_window(tree["attention_mask"], slots, group_keys, window)
        layers[name] = TreeLayer(
            slots=tree["slots"],
            node_slots=tree["node_slots"],
            path_mask=path_mask,
            group_mask=_additive(group_mask, dtype, heads_per_key),
        )
    layout = [layers.get(name) or next(iter(layers.values())) for name in layer_types(config)]
    if "queries" in tree:
        positions = keys[:, keys.shape[1] - nodes :][:, tree["queries"]]
        mask = _limit_to_window(tree["query_mask"], positions, keys, windows.get(layer_types(config)[-1]))
        predicting = PredictingNodes(tree["queries"], _additive(mask, dtype, heads_per_key), nodes)
        layout[-1] = replace(layout[-1], predicting=predicting)
    return tuple(layout)


def _limit_to_window(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return a boolean mask with only the keys in a sliding window.

    Args:
        mask: [G, 1, Q, K].
        queries: The positions of the queries in their own sequences, [G, Q].
        keys: The positions of the keys, [G, K].
        window: The length of the window, None for no limit.
    """
    # The window is one of positions, which are depths: between a node and its ancestor there can be other branches.
    return mask if window is None else mask & (keys[:, None, None, :] > queries[:, None, :, None] - window)


def _additive(mask: torch.Tensor, dtype: torch.dtype, repetitions: int = 1) -> torch.Tensor:
    """Return a mask that is added to attention scores, with its queries repeated.

    Unsloth's forward does not support boolean masks.
    """
    additive = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    return additive.repeat(1, 1, repetitions, 1) if repetitions > 1 else additive
