"""Attention over prefix trees, split at the root, and a last layer that computes only the nodes that predict.

Both are exact, need no compilation and work with a model's own code on every device. `tree_layout.model_inputs` returns
a layout, which is passed through the model as a keyword argument so that gradient checkpointing also passes it to a
layer that runs again during the backward pass. A hook before each layer removes it from the arguments and keeps it for
the attention function.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from toolkit.models.attention import unwrap_peft
from toolkit.models.backend import ALL_ATTENTION_FUNCTIONS, DEVICE, replace_fused_attention
from toolkit.models.tree_layout import PredictingNodes, TreeLayer

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
"""The modules of the last layer whose results are needed only for nodes that predict. The keys and values of all nodes
are needed, because these nodes attend to them."""


class _ActiveLayer(threading.local):
    """The layer of a tree that this thread is computing, or None outside of trees.

    On a GPU, the backward pass runs in its own thread, in which gradient checkpointing runs layers again.
    """

    layer: TreeLayer | None = None


_active = _ActiveLayer()


def accept_trees(model: Any, accepted: bool = True) -> None:
    """Make a decoder compute prefix trees.

    Unsloth's decoder then accepts custom masks and rows longer than max_seq_length. On a GPU, cuDNN attention is turned
    off for the whole process.

    Args:
        model: A causal language model, with or without an adapter.
        accepted: False to make Unsloth's decoder reject custom masks and long rows again. Nothing else is undone.
    """
    decoder = unwrap_peft(model).get_decoder()
    if accepted:
        _install(decoder)
    # The decoders of stock transformers models accept both anyway and ignore the flags.
    for flag in UNSLOTH_FLAGS:
        setattr(decoder, flag, accepted)


@contextmanager
def preserve_tree_settings(model: Any) -> Iterator[None]:
    """Save the settings that `accept_trees` changes, and restore them when the `with` block ends; its hooks stay."""
    decoder = unwrap_peft(model).get_decoder()
    flags = {flag: getattr(decoder, flag, False) for flag in UNSLOTH_FLAGS}
    uses_cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        yield
    finally:
        for flag, accepted in flags.items():
            setattr(decoder, flag, accepted)
        torch.backends.cuda.enable_cudnn_sdp(uses_cudnn)


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
    """Make the layers of a decoder compute trees with split attention. Other inputs are computed as before.

    A decoder without a list of layers is left unchanged, and split attention then fails the verification.
    """
    _replace_attention_functions()  # each time, because Unsloth may have replaced them since
    layers = getattr(decoder, "layers", None)
    if layers is None or getattr(decoder, _INSTALLED, False):
        return
    setattr(decoder, _INSTALLED, True)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(_enter(index), with_kwargs=True)
        layer.register_forward_hook(_leave, always_call=True)
    modules = dict(layers[-1].named_modules())
    for name in _LAST_LAYER_MODULES:
        if name in modules:
            modules[name].register_forward_pre_hook(_select_nodes)
            modules[name].register_forward_hook(_scatter_nodes)


def _enter(index: int) -> Callable[..., Any]:
    """Return the hook that runs before the layer with this index."""

    def enter(_: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        layout = keywords.pop("tree_layout", None)
        _active.layer = layout and layout[index]
        return arguments, keywords

    return enter


def _leave(*_: Any) -> None:
    _active.layer = None


def _predicting_nodes() -> PredictingNodes | None:
    """Return the nodes that the active layer computes, or None for all nodes."""
    return None if _active.layer is None else _active.layer.predicting


def _select_nodes(_: Any, arguments: Any) -> Any:
    predicting = _predicting_nodes()
    return None if predicting is None else (arguments[0].index_select(1, predicting.nodes), *arguments[1:])


def _scatter_nodes(_module: Any, _arguments: Any, result: torch.Tensor) -> torch.Tensor | None:
    predicting = _predicting_nodes()
    return None if predicting is None else _scatter(result, predicting, 1)


def _scatter(result: torch.Tensor, predicting: PredictingNodes, dim: int) -> torch.Tensor:
    """Return the results at their indices among all nodes, and zeros elsewhere, which nothing reads."""
    shape = [predicting.length if i == dim else size for i, size in enumerate(result.shape)]
    return result.new_zeros(shape).index_copy(dim, predicting.nodes, result)


def _replace_attention_functions() -> None:
    # Unsloth also replaces this function, again for some models, and in this object only. So a function that is
    # registered for all objects, with AttentionInterface.register, might never be called.
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if not hasattr(plain, "original"):
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _wrap_attention(plain)
    if DEVICE == "cuda":
        replace_fused_attention(_wrap_fused_attention)
        # cuDNN prepares for each new combination of lengths, which takes 0.1 to 0.7 s per tree (docs/gpu.md).
        torch.backends.cuda.enable_cudnn_sdp(False)


def _wrap_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement of the function with which transformers' models compute attention."""

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **keywords: Any
    ) -> tuple[torch.Tensor, None]:
        if _active.layer is None:
            return original(module, query, key, value, attention_mask, **keywords)
        options = {"scale": keywords.get("scaling"), "dropout_p": keywords.get("dropout", 0.0)}
        return _tree_attention(_active.layer, query, key, value, **options).transpose(1, 2).contiguous(), None

    attention.original = original  # type: ignore[attr-defined]
    return attention


def _wrap_fused_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement of the function with which Unsloth's fused layers compute attention on a GPU."""

    def run_attention(*, config: Any, context: Any, Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        if _active.layer is None:
            return original(config=config, context=context, Q=Q, K=K, V=V)
        return _tree_attention(_active.layer, Q, K, V, scale=(config.sdpa_kwargs or {}).get("scale")).transpose(1, 2)

    return run_attention


@torch.compiler.disable  # compilation takes longer than it saves, and is repeated for each new length
def _tree_attention(
    layer: TreeLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> torch.Tensor:
    """Compute the attention of one layer.

    Args:
        layer: The layer.
        query: [1, heads, T, D].
        key: [1, key heads, P + T, D], of which the first P are cached.
        value: The same shape.
        options: Arguments of torch's `scaled_dot_product_attention`.

    Returns:
        [1, heads, T, D]. In the last layer, only the rows of nodes that predict are computed.
    """
    if layer.predicting is not None:
        query = query.index_select(2, layer.predicting.nodes)
        return _scatter(_attend(query, key, value, layer.predicting.mask, **options), layer.predicting, 2)
    below, groups = len(layer.node_slots), len(layer.slots)

    def split_into_groups(nodes: torch.Tensor) -> torch.Tensor:
        slots = _ToSlots.apply(nodes[0], layer.slots.flatten(), layer.node_slots)
        return slots.unflatten(1, (groups, -1)).transpose(0, 1)

    def prepend_path(path: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        return torch.cat([path.expand(groups, -1, -1, -1), split_into_groups(nodes)], dim=2)

    path_query, own_query = query.split([query.shape[2] - below, below], dim=2)
    (path_key, own_key), (path_value, own_value) = (x.split([x.shape[2] - below, below], dim=2) for x in (key, value))
    keys, values = prepend_path(path_key, own_key), prepend_path(path_value, own_value)
    result = _attend(split_into_groups(own_query), keys, values, layer.group_mask, **options)
    result = _FromSlots.apply(result.transpose(0, 1).flatten(1, 2), layer.node_slots)[None]
    if not path_query.shape[2]:
        return result
    return torch.cat([_attend(path_query, path_key, path_value, layer.path_mask, **options), result], dim=2)


class _ToSlots(torch.autograd.Function):
    """A copy of nodes into their slots, whose backward pass copies the gradients back.

    PyTorch's own gradient of `index_select` adds up the gradients one by one, because an index can occur twice. Here
    only empty slots repeat a node. They have no gradient: no node attends to them, and nothing reads their results.
    """

    @staticmethod
    def forward(ctx: Any, nodes: torch.Tensor, slots: torch.Tensor, node_slots: torch.Tensor) -> torch.Tensor:
        """Return [heads, slots, D] for nodes [heads, nodes, D]; see `TreeLayer` for the indices."""
        ctx.save_for_backward(node_slots)
        return nodes.index_select(1, slots)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the nodes."""
        return gradient.index_select(1, ctx.saved_tensors[0]), None, None


class _FromSlots(torch.autograd.Function):
    """A copy of the results in slots back to their nodes: the inverse of `_ToSlots`."""

    @staticmethod
    def forward(ctx: Any, results: torch.Tensor, node_slots: torch.Tensor) -> torch.Tensor:
        """Return [heads, nodes, D] for results [heads, slots, D]."""
        ctx.save_for_backward(node_slots)
        ctx.slots = results.shape[1]
        return results.index_select(1, node_slots)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient of the results, which is 0 in empty slots."""
        shape = (gradient.shape[0], ctx.slots, gradient.shape[2])
        return gradient.new_zeros(shape).index_copy_(1, ctx.saved_tensors[0], gradient), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **options: Any
) -> torch.Tensor:
    """Return grouped-query attention, which is causal if there is no mask.

    With a mask, the queries of the heads that share a key head are concatenated, [G, key heads, heads per key head x Q,
    D], which avoids a copy of the keys and values for each head. Memory-efficient attention does not support shared key
    heads itself.
    """
    key_heads, heads_per_key = key.shape[1], query.shape[1] // key.shape[1]
    if mask is None:
        if heads_per_key > 1:
            key, value = (tensor.repeat_interleave(heads_per_key, dim=1) for tensor in (key, value))
        return scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    folded = query.unflatten(1, (key_heads, heads_per_key)).flatten(2, 3)
    result = scaled_dot_product_attention(folded, key, value, attn_mask=mask.to(query.dtype), **options)
    return result.unflatten(2, (heads_per_key, -1)).flatten(1, 2)
