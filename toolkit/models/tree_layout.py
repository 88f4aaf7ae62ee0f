"""The inputs with which a model computes a micro-batch: padded rows, or a prefix tree with its masks."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from toolkit.batching.collators import MicroBatch
from toolkit.models.attention import layer_types, sliding_window


@dataclass(frozen=True)
class LayerMasks:
    """The masks of one layer, which are added to the attention scores; see `TreeLayout` for the sizes.

    Args:
        path: [1, 1, n R, P + R], or None for plain causal attention.
        groups: [G, 1, n W, P + R + W].
        queries: [1, 1, n N, P + T] in the last layer, if only N nodes predict. Otherwise None.
    """

    path: torch.Tensor | None
    groups: torch.Tensor
    queries: torch.Tensor | None = None


@dataclass(frozen=True)
class TreeLayout:
    """A tree of T nodes for attention split at its root; see `batching.root_split`.

    The first R nodes are the common path, which can follow P cached tokens. All other nodes are in G groups of W slots.
    n query heads share a key head, and a mask has their queries one after the other.

    Args:
        slots: The node in each slot, [G, W].
        node_slots: The slot of each node below the path, [T - R].
        queries: The nodes that predict, [N], or None if most nodes do.
        layers: The masks of each layer.
        length: The number of nodes, T.
    """

    slots: torch.Tensor
    node_slots: torch.Tensor
    queries: torch.Tensor | None
    layers: tuple[LayerMasks, ...]
    length: int


def model_inputs(micro_batch: MicroBatch, config: Any, dtype: torch.dtype, prefix_length: int = 0) -> dict[str, Any]:
    """Return the arguments of a model's forward.

    Args:
        micro_batch: Padded rows or a tree, see `batching.collators`.
        config: The configuration of the model.
        dtype: The data type that the model computes in.
        prefix_length: The number of cached tokens before a tree, which all nodes attend to.

    Returns:
        `input_ids` and `attention_mask`, which the model itself limits to its sliding window if rows are padded.

        For a tree also `position_ids`, and for attention split at its root `tree_layout`, which
        `tree_attention` passes to the layers. For dense attention the mask is added to the attention scores. If a model
        has layers with and without a sliding window and the tree is longer than it, the masks are in a dictionary by
        type of layer.
    """
    inputs: dict[str, Any] = {name: micro_batch[name] for name in ("input_ids", "attention_mask")}
    if "position_ids" not in micro_batch:
        return inputs
    positions = micro_batch["position_ids"] + prefix_length
    inputs["position_ids"] = positions
    keys = torch.cat([torch.arange(prefix_length, device=positions.device)[None], positions], dim=1)
    # Every node descends from the cached tokens.
    mask = torch.nn.functional.pad(micro_batch["attention_mask"], (prefix_length, 0), value=True)
    windows = _windows(config, positions)
    if "slots" in micro_batch:
        inputs["tree_layout"] = _layout(micro_batch, mask, keys, config, dtype, windows)
        # A model that gets no mask creates one. An empty mask makes layers fail that do not use the layout instead.
        inputs["attention_mask"] = torch.zeros(1, 1, 0, 0, dtype=dtype, device=positions.device)
        return inputs
    masks = {name: _additive(_limit(mask, positions, keys, window), dtype) for name, window in windows.items()}
    # Only models with several types of layers accept a dictionary.
    inputs["attention_mask"] = masks if len(masks) > 1 else next(iter(masks.values()))
    return inputs


def _windows(config: Any, positions: torch.Tensor) -> dict[str, int | None]:
    """Return the sliding window of each type of layer, in tokens, or of only one type if all layers see all keys."""
    types, window = sorted(set(layer_types(config))), sliding_window(config)
    if window is None or positions.max() < window:
        return {types[0]: None}
    return {name: window if name == "sliding_attention" else None for name in types}


def _layout(
    micro_batch: MicroBatch,
    mask: torch.Tensor,
    keys: torch.Tensor,
    config: Any,
    dtype: torch.dtype,
    windows: dict[str, int | None],
) -> TreeLayout:
    slots, node_slots = micro_batch["slots"], micro_batch["node_slots"]
    positions = keys[:, -micro_batch["position_ids"].shape[1] :]
    shared = keys.shape[1] - len(node_slots)
    slot_positions = positions[0, slots]
    group_keys = torch.cat([keys[:, :shared].expand(len(slots), -1), slot_positions], dim=1)
    path = positions[:, : positions.shape[1] - len(node_slots)]
    heads = config.get_text_config().num_attention_heads
    shared_heads = heads // (getattr(config.get_text_config(), "num_key_value_heads", None) or heads)
    masks = {}
    for name, window in windows.items():
        path_mask = _limit(keys[:, None, None, :shared] <= path[:, None, :, None], path, keys[:, :shared], window)
        is_causal = window is None and shared == path.shape[1]
        masks[name] = LayerMasks(
            path=None if is_causal else _additive(path_mask, dtype, shared_heads),
            groups=_additive(_limit(mask, slot_positions, group_keys, window), dtype, shared_heads),
        )
    types = layer_types(config) if len(masks) > 1 else [*windows] * len(layer_types(config))
    layers = [masks[name] for name in types]
    queries = micro_batch.get("queries")
    if queries is not None:
        query_mask = torch.nn.functional.pad(micro_batch["query_mask"], (keys.shape[1] - positions.shape[1], 0), value=True)
        query_mask = _limit(query_mask, positions[:, queries], keys, windows[types[-1]])
        layers[-1] = replace(layers[-1], queries=_additive(query_mask, dtype, shared_heads))
    return TreeLayout(slots, node_slots, queries, tuple(layers), positions.shape[1])


def _limit(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
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
    return additive.repeat(1, 1, repetitions, 1)
