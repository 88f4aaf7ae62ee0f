"""Attention of prefix trees, split at the root, and a last layer that computes only the nodes that predict.

Both are exact, need no compilation and work with a model's own code on every device. `tree_layout.model_inputs` returns
a layout that travels through the model as a keyword argument, so that gradient checkpointing, which runs a layer
again during the backward pass, finds it again. A hook before each layer takes it out; the attention function reads it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from toolkit.models.attention import unwrap_peft
from toolkit.models.backend import DEVICE, AttentionInterface, replace_fused_attention
from toolkit.models.tree_layout import LayerMasks, TreeLayout

MASK_ERRORS = (RuntimeError, ValueError, LookupError, AttributeError, TypeError)
"""The errors with which models reject the mask of a prefix tree."""

UNSLOTH_FLAGS = ("_unsloth_keep_padding_mask", "_unsloth_allow_packed_overlength")
"""Attributes of the decoder that Unsloth's fused Llama forward (CUDA) reads.

The first makes it keep a custom attention mask during training. The second stops it from cutting rows at
max_seq_length, which a tree of many rows exceeds. The names are private and can change, so a test looks for them in
Unsloth's source, and a tree is compared with padded rows before it is used.
"""

_INSTALLED = "_toolkit_tree_attention"
_LAST_LAYER_MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""The modules of the last layer whose results are needed only for nodes that predict. Keys and values of all nodes are
needed, because the nodes attend to them."""


_TreeLayer = tuple[TreeLayout, LayerMasks]


class _Active(threading.local):
    """The layer that is being computed: the tree's layout and the layer's masks, or None outside of trees.

    On a GPU, the backward pass has a thread of its own, in which layers can run again.
    """

    layer: _TreeLayer | None = None


_active = _Active()


def accept_trees(model: Any, accepted: bool = True) -> None:
    """Make a decoder compute prefix trees.

    Unsloth's then accepts custom masks and rows longer than max_seq_length. If `accepted` is False, it rejects them
    again.
    """
    decoder = unwrap_peft(model).get_decoder()
    if accepted:
        _install(decoder)
    # The decoders of stock transformers models accept both anyway and ignore the flags.
    for flag in UNSLOTH_FLAGS:
        setattr(decoder, flag, accepted)


@contextmanager
def limit_sequence_length(model: Any, length: int) -> Iterator[None]:
    """Lower the length at which Unsloth's forward cuts rows, so that a check of a small tree covers large trees too."""
    decoder = unwrap_peft(model).get_decoder()
    previous_length = getattr(decoder, "max_seq_length", None)
    if previous_length is None:
        yield
        return
    decoder.max_seq_length = length
    try:
        yield
    finally:
        decoder.max_seq_length = previous_length


def _install(decoder: Any) -> None:
    """Make the layers of a decoder compute trees split at their root; other inputs are computed as before.

    Does nothing for a decoder without a list of layers, whose trees then fail the verification.
    """
    layers = getattr(decoder, "layers", None)
    if layers is None or getattr(decoder, _INSTALLED, False):
        return
    setattr(decoder, _INSTALLED, True)
    _replace_attention_functions()
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(_enter(index), with_kwargs=True)
        layer.register_forward_hook(_leave, always_call=True)
    modules = dict(layers[-1].named_modules())
    for name in _LAST_LAYER_MODULES:
        if name in modules:
            modules[name].register_forward_pre_hook(_select_rows)
            modules[name].register_forward_hook(_scatter_rows)


def _enter(index: int) -> Callable[..., Any]:
    def enter(_: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        layout = keywords.pop("tree_layout", None)
        _active.layer = layout and (layout, layout.layers[index])
        return arguments, keywords

    return enter


def _leave(*_: Any) -> None:
    _active.layer = None


def _predicting_nodes(layer: _TreeLayer | None) -> torch.Tensor | None:
    """Return the nodes to compute if the layer is the last one and only some nodes predict."""
    return None if layer is None or layer[1].queries is None else layer[0].queries


def _select_rows(_: Any, arguments: Any) -> Any:
    rows = _predicting_nodes(_active.layer)
    return None if rows is None else (arguments[0].index_select(1, rows), *arguments[1:])


def _scatter_rows(_module: Any, _arguments: Any, result: torch.Tensor) -> torch.Tensor | None:
    layer = _active.layer
    rows = _predicting_nodes(layer)
    return None if layer is None or rows is None else _scatter(result, rows, 1, layer[0].length)


def _scatter(result: torch.Tensor, rows: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Return the rows at their indices among all nodes of a tree, and zeros elsewhere, which nothing reads."""
    shape = list(result.shape)
    shape[dim] = length
    return result.new_zeros(shape).index_copy(dim, rows, result)


def _replace_attention_functions() -> None:
    plain = AttentionInterface()["sdpa"]
    if plain is not _transformers_attention:
        _originals["sdpa"] = plain
        AttentionInterface.register("sdpa", _transformers_attention)
    if DEVICE == "cuda":
        replace_fused_attention(_fused_attention)


_originals: dict[str, Callable[..., Any]] = {}


def _transformers_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **keywords: Any
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' models call it; see `transformers.AttentionInterface`."""
    layer = _active.layer
    if layer is None:
        return _originals["sdpa"](module, query, key, value, attention_mask, **keywords)
    options = {"scale": keywords.get("scaling"), "dropout_p": keywords.get("dropout", 0.0)}
    return _tree_attention(layer, query, key, value, **options).transpose(1, 2).contiguous(), None


def _fused_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement of the function with which Unsloth's fused layers compute attention on a GPU."""

    def run_attention(*, config: Any, context: Any, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        layer = _active.layer
        if layer is None:
            return original(config=config, context=context, Q=Q, K=K, V=V)
        return _tree_attention(layer, Q, K, V, scale=(config.sdpa_kwargs or {}).get("scale")).transpose(1, 2)

    return run_attention


def _tree_attention(
    layer: _TreeLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Compute the attention of a layer.

    Args:
        layer: The tree's layout and the layer's masks.
        query: [1, heads, T, D].
        key: [1, key heads, P + T, D], of which the first P are cached.
        value: The same shape.
        options: Arguments of torch's `scaled_dot_product_attention`.

    Returns:
        [1, heads, T, D]. In the last layer, only the rows of nodes that predict are computed.
    """
    layout, masks = layer
    nodes = _predicting_nodes(layer)
    if nodes is not None:
        result = _attend(query.index_select(2, nodes), key, value, masks.queries, **options)
        return _scatter(result, nodes, 2, layout.length)
    shared = key.shape[2] - len(layout.node_slots)
    prefix, path = key.shape[2] - query.shape[2], query.shape[2] - len(layout.node_slots)
    groups, slots = len(layout.slots), layout.slots.flatten()

    def in_groups(nodes: torch.Tensor) -> torch.Tensor:
        return nodes[0].index_select(1, slots).unflatten(1, (groups, -1)).transpose(0, 1)

    def with_path(nodes: torch.Tensor) -> torch.Tensor:
        return torch.cat([nodes[:, :, :shared].expand(groups, -1, -1, -1), in_groups(nodes[:, :, prefix:])], dim=2)

    result = _attend(in_groups(query), with_path(key), with_path(value), masks.groups, **options)
    result = result.transpose(0, 1).flatten(1, 2).index_select(1, layout.node_slots)[None]
    if not path:
        return result
    on_path = _attend(query[:, :, :path], key[:, :, :shared], value[:, :, :shared], masks.path, **options)
    return torch.cat([on_path, result], dim=2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **options: Any
) -> torch.Tensor:
    """Return the attention of query heads over the key head that they share, causal attention if there is no mask.

    The queries of these heads are put one after the other, [G, key heads, heads per key head x Q, D], which avoids a
    copy of the keys and values for each of them. Memory-efficient attention does not accept shared heads itself.
    """
    key_heads, heads = key.shape[1], query.shape[1] // key.shape[1]
    if mask is None:
        if heads > 1:
            key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
        return scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    folded = query.unflatten(1, (key_heads, heads)).flatten(2, 3)
    result = scaled_dot_product_attention(folded, key, value, attn_mask=mask.to(query.dtype), **options)
    return result.unflatten(2, (heads, -1)).flatten(1, 2)
