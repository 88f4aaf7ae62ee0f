"""The sizes of a Llama model and of a micro-batch, and the blocks of memory that a layer allocates."""

from dataclasses import dataclass
from typing import Any, get_args

import torch

from toolkit.batching.collators import MicroBatch
from toolkit.recipe.model_kind import DecoderTarget
from toolkit.recipe.schema import LoraSection

_KEYS_VALUES = ("k_proj", "v_proj")
_GATES = ("gate_proj", "up_proj")
LINEAR_LAYERS: tuple[str, ...] = get_args(DecoderTarget)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that memory depends on.

    Args:
        layers: The number of decoder layers.
        hidden: The width of the residual stream.
        attention: The number of query heads times the head size.
        keys: The number of key-value heads times the head size.
        intermediate: The width of the MLP.
        heads: The number of query heads.
        vocabulary: The number of rows of the language-model head.
    """

    layers: int
    hidden: int
    attention: int
    keys: int
    intermediate: int
    heads: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Any) -> "ModelShape":
        """Read a transformers configuration."""
        heads = config.num_attention_heads
        # Both keys are optional, and None means the same as a missing key.
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * head_size
        return cls(
            config.num_hidden_layers, config.hidden_size, heads * head_size, keys, config.intermediate_size, heads,
            config.vocab_size,
        )  # fmt: skip

    @property
    def heads_per_key(self) -> int:
        """The number of query heads that share a key head."""
        return self.attention // self.keys

    @property
    def key_heads(self) -> int:
        """The number of key-value heads."""
        return self.heads // self.heads_per_key

    def input_size(self, module: str) -> int:
        """Return the input width of a linear layer."""
        return {"o_proj": self.attention, "down_proj": self.intermediate}.get(module, self.hidden)

    def output_size(self, module: str) -> int:
        """Return the output width of a linear layer."""
        widths = {"q_proj": self.attention, "k_proj": self.keys, "v_proj": self.keys}
        return widths.get(module, self.intermediate if module in _GATES else self.hidden)


@dataclass(frozen=True)
class SplitShape:
    """The sizes of a prefix tree for attention split at the root, see `batching.root_split`.

    Args:
        path: The number of nodes on the common path.
        groups: The number of groups of subtrees.
        width: The number of slots per group.
        queries: The number of nodes that the last layer computes, or None for all of them.
    """

    path: int
    groups: int
    width: int
    queries: int | None = None


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a micro-batch.

    Args:
        rows: The number of rows, 1 for a prefix tree.
        length: The number of tokens of a padded row, or of nodes of a tree.
        predictions: The number of positions at which the language-model head is applied.
        is_tree: Whether it is a tree, whose masks all layers share. For padded rows, each layer keeps its own mask.
        split: The sizes of a tree for attention split at the root. None for dense attention and for padded rows.
        prefix: The number of cached tokens before a tree.
        depth: The number of tokens of the longest row in a tree, without the cached ones.
    """

    rows: int
    length: int
    predictions: int
    is_tree: bool = False
    split: SplitShape | None = None
    prefix: int = 0
    depth: int = 1

    @classmethod
    def from_micro_batch(cls, micro_batch: MicroBatch, predictions: int, prefix: int = 0) -> "BatchShape":
        """Return the sizes of collated tensors.

        Args:
            micro_batch: The tensors.
            predictions: The number of positions at which the language-model head is applied.
            prefix: The number of cached tokens before a tree.
        """
        rows, length = micro_batch["input_ids"].shape
        if "position_ids" not in micro_batch:
            return cls(rows, length, predictions)
        split, depth = None, int(micro_batch["position_ids"].max()) + 1
        if "slots" in micro_batch:
            groups, width = micro_batch["slots"].shape
            queries = len(micro_batch["queries"]) if "queries" in micro_batch else None
            split = SplitShape(length - len(micro_batch["node_slots"]), groups, width, queries)
        return cls(rows, length, predictions, is_tree=True, split=split, prefix=prefix, depth=depth)

    def zeros(self) -> MicroBatch:
        """Return tensors of these sizes, as collators return them, but with meaningless values."""
        inputs = {"input_ids": torch.zeros(self.rows, self.length, dtype=torch.long)}
        if not self.is_tree:
            return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}
        inputs["position_ids"] = torch.full_like(inputs["input_ids"], self.depth - 1)
        split = self.split
        if split is None:
            return inputs | {"attention_mask": torch.ones(1, 1, self.length, self.length, dtype=torch.bool)}
        inputs |= {
            "attention_mask": torch.ones(split.groups, 1, split.width, split.path + split.width, dtype=torch.bool),
            "slots": torch.zeros(split.groups, split.width, dtype=torch.long),
            "node_slots": torch.zeros(self.length - split.path, dtype=torch.long),
        }
        if split.queries is not None:
            inputs["queries"] = torch.arange(split.queries)
            inputs["query_mask"] = torch.ones(1, 1, split.queries, self.length, dtype=torch.bool)
        return inputs

    @property
    def tokens(self) -> int:
        """The number of tokens, including padding, or of nodes of a tree."""
        return self.rows * self.length

    @property
    def last_tokens(self) -> int:
        """The number of tokens for which the last layer computes more than keys and values."""
        return self.tokens if self.split is None or self.split.queries is None else self.split.queries

    @property
    def group_queries(self) -> int:
        """The number of queries in all groups of a tree, including empty slots."""
        return 0 if self.split is None else self.split.groups * self.split.width

    @property
    def group_keys(self) -> int:
        """The number of keys in all groups of a tree: the cached tokens, the path and the slots of each group."""
        return 0 if self.split is None else self.group_queries + self.split.groups * (self.prefix + self.split.path)

    def mask_elements(self, shape: ModelShape) -> int:
        """Return the number of elements of the masks of a tree, or of one layer's mask for padded rows."""
        split = self.split
        if split is None:
            return self.tokens * (self.prefix + self.length)
        elements = self.group_queries * (self.prefix + split.path + split.width)
        if self.prefix:  # without a cached prefix, the path needs no mask
            elements += split.path * (self.prefix + split.path)
        if split.queries is not None:
            elements += split.queries * (self.prefix + self.length)
        return shape.heads_per_key * elements


def kept_blocks(shape: ModelShape, lora: LoraSection, batch_shape: BatchShape, *, is_last: bool = False) -> list[int]:
    """Return the sizes, in elements, of the blocks that one layer keeps for its backward pass.

    These are the inputs of both norms, the blocks of the attention, and gate, its activation and up. Adapters keep
    their input, once if several share it. With dropout, each keeps its own masked copy and the mask. With DoRA, each
    target also keeps the results of the base layer and of the adapter.

    Args:
        shape: The sizes of the model.
        lora: The LoRA section of the recipe.
        batch_shape: The sizes of the micro-batch.
        is_last: True for the last layer. In a tree, it can compute all but keys and values for only some nodes.
    """
    targets, all_tokens = set(lora.target_modules), batch_shape.tokens
    tokens = batch_shape.last_tokens if is_last else all_tokens
    is_partial = tokens < all_tokens

    def count(module: str) -> int:
        return all_tokens if module in _KEYS_VALUES else tokens

    if lora.dropout:
        adapter_inputs = [shape.input_size(module) * count(module) for module in lora.target_modules] * 2
    else:
        shared = {*_KEYS_VALUES} if is_partial else {*_KEYS_VALUES, "q_proj"}
        adapter_inputs = [
            *[shape.hidden * all_tokens] * bool(targets & shared),
            *[shape.hidden * tokens] * (is_partial and "q_proj" in targets),
            *[shape.hidden * tokens] * bool(targets & set(_GATES)),
            *[shape.intermediate * tokens] * ("down_proj" in targets),
        ]
        # With split attention, the input of o_proj is concatenated from the outputs of path and groups.
        adapter_inputs += [shape.attention * tokens] * (batch_shape.split is not None and "o_proj" in targets)
    if lora.use_dora:  # the gradient of the magnitudes needs both results
        adapter_inputs += [shape.output_size(module) * count(module) for module in lora.target_modules] * 2
    attention = _kept_by_attention(shape, batch_shape, is_partial=is_partial)
    return [shape.hidden * all_tokens] * 2 + attention + [shape.intermediate * tokens] * 3 + adapter_inputs


def _kept_by_attention(shape: ModelShape, batch_shape: BatchShape, *, is_partial: bool) -> list[int]:
    """Return the sizes of the queries, keys, values and outputs that a layer's attention keeps."""
    split, tokens = batch_shape.split, batch_shape.tokens
    if split is None:  # keys and values are repeated for all heads
        return [shape.attention * tokens] * 4
    if is_partial:
        return [shape.attention * batch_shape.last_tokens] * 2 + [shape.keys * tokens] * 2
    groups = [shape.attention * batch_shape.group_queries] * 2 + [shape.keys * batch_shape.group_keys] * 2
    # The queries of the path are a view, which keeps the queries of all nodes. Keys and values are also views unless
    # they are repeated.
    path_keys = shape.attention * (split.path if shape.heads_per_key > 1 else tokens)
    return [*groups, shape.attention * tokens, path_keys, path_keys, shape.attention * split.path]


def freed_blocks(shape: ModelShape, lora: LoraSection, batch_shape: BatchShape) -> list[int]:
    """Return the sizes, in elements, of the blocks that one layer allocates and frees before the next layer.

    - Norms: the square, the normalized input, and the result unless adapters keep it.
    - The product of gate and up unless the adapter of down_proj keeps it.
    - Rotary embedding of queries and keys: two products, the rotated copy and its negated half.
    - Linear layers with an adapter: the base result, the adapter result, and the scaled adapter result. With DoRA:
      both results multiplied by the magnitudes, the scaled adapter result, their sum, and with dropout also the base
      result for the input without dropout.
    - The final result of linear layers except gate and up. It is rotated, repeated for all heads or added to the
      residual stream, and the new tensor is kept instead.
    - With split attention, the copies of nodes into groups and back.
    """
    targets, has_dropout = set(lora.target_modules), bool(lora.dropout)
    freed = [shape.hidden] * 4
    freed += [shape.hidden] * (has_dropout or not targets & {"q_proj", *_KEYS_VALUES})
    freed += [shape.hidden] * (has_dropout or not targets & set(_GATES))
    freed += [shape.intermediate] * (has_dropout or "down_proj" not in targets)
    # With grouped-query attention, keys and values are repeated for all heads, and the narrow originals are freed.
    is_gqa = shape.heads_per_key > 1
    freed += [shape.attention, shape.keys] * 3 + [shape.attention // 2, shape.keys // 2] + [shape.keys] * is_gqa
    results_per_target = 4 + has_dropout if lora.use_dora else 3
    kept_modules = _GATES if is_gqa else ("v_proj", *_GATES)
    for module in LINEAR_LAYERS:
        freed += [shape.output_size(module)] * (
            (results_per_target if module in targets else 0) + (module not in kept_modules)
        )
    blocks = [width * batch_shape.tokens for width in freed]
    if batch_shape.split is not None:
        blocks += _freed_by_split(shape, batch_shape, batch_shape.split)
        blocks += [shape.attention * batch_shape.tokens] * (has_dropout or "o_proj" not in targets)
    return blocks


def _freed_by_split(shape: ModelShape, batch_shape: BatchShape, split: SplitShape) -> list[int]:
    """Return the sizes of the copies in `tree_attention` that are freed before the next layer."""
    queries = shape.attention * batch_shape.group_queries
    # The queries of heads that share a key head are concatenated, and the results are separated again. With one group,
    # these are views, except one if there are several key heads.
    copies = (split.groups > 1) * 2 + (shape.key_heads > 1) if shape.heads_per_key > 1 else 0
    # The others are the keys and values of the groups before the path is prepended, the results of the nodes below the
    # path, and the results of all nodes.
    return [
        *[queries] * copies,
        *[shape.keys * batch_shape.group_queries] * 2,
        shape.attention * (batch_shape.tokens - split.path),
        shape.attention * batch_shape.tokens,
    ]
