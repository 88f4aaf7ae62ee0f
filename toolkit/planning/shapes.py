"""The sizes of a Llama model and of a micro-batch, and the vectors that a layer computes per token."""

from dataclasses import dataclass
from typing import Any, get_args

from toolkit.recipe.model_kind import DecoderTarget
from toolkit.recipe.schema import LoraSection

_QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")
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

    def input_size(self, module: str) -> int:
        """Return the input width of a linear layer."""
        return {"o_proj": self.attention, "down_proj": self.intermediate}.get(module, self.hidden)

    def output_size(self, module: str) -> int:
        """Return the output width of a linear layer."""
        widths = {"q_proj": self.attention, "k_proj": self.keys, "v_proj": self.keys}
        return widths.get(module, self.intermediate if module in _GATES else self.hidden)


@dataclass(frozen=True)
class BatchShape:
    """The sizes of a micro-batch.

    Args:
        tokens: The number of tokens, including padding, or the number of nodes of a tree.
        mask: The number of elements of the attention mask: rows times length squared, or nodes squared for a tree.
        predictions: The number of positions at which the language-model head is applied.
        is_tree: Whether it is a tree, whose mask all layers share. For padded rows, each layer keeps its own.
    """

    tokens: int
    mask: int
    predictions: int
    is_tree: bool

    @property
    def length(self) -> int:
        """The number of tokens of a padded row, or of nodes of a tree."""
        return self.tokens if self.is_tree else self.mask // self.tokens


def kept_widths(shape: ModelShape, lora: LoraSection) -> list[int]:
    """Return the widths of the vectors that one layer keeps per token for its backward pass.

    These are the inputs of both norms, the queries, keys and values (the latter two repeated for all heads), the output
    of the attention, and gate, its activation and up. Adapters keep their input, once if several share it. With
    dropout, each keeps its own masked copy and the mask. With DoRA, each target also keeps the results of the base
    layer and of the adapter.
    """
    targets = set(lora.target_modules)
    if lora.dropout:
        adapter_inputs = [shape.input_size(module) for module in lora.target_modules] * 2
    else:  # the input of o_proj is the output of the attention, which is already counted
        adapter_inputs = [
            *[shape.hidden] * bool(targets & set(_QUERIES_KEYS_VALUES)),
            *[shape.hidden] * bool(targets & set(_GATES)),
            *[shape.intermediate] * ("down_proj" in targets),
        ]
    if lora.use_dora:  # the gradient of the magnitudes needs both results
        adapter_inputs += [shape.output_size(module) for module in lora.target_modules] * 2
    return [shape.hidden] * 2 + [shape.attention] * 4 + [shape.intermediate] * 3 + adapter_inputs


def freed_widths(shape: ModelShape, lora: LoraSection) -> list[int]:
    """Return the widths of the vectors that one layer allocates per token and frees before the next layer.

    - Norms: the square, the normalized input, and the result unless adapters keep it.
    - The product of gate and up unless the adapter of down_proj keeps it.
    - Rotary embedding of queries and keys: two products, the rotated copy and its negated half.
    - Linear layers with an adapter: the base result, the adapter result, and the scaled adapter result. With DoRA:
      both results multiplied by the magnitudes, the scaled adapter result, their sum, and with dropout also the base
      result for the input without dropout.
    - The final result of linear layers except gate and up. It is rotated, repeated for all heads or added to the
      residual stream, and the new tensor is kept instead.
    """
    targets, has_dropout = set(lora.target_modules), bool(lora.dropout)
    freed = [shape.hidden] * 4
    freed += [shape.hidden] * (has_dropout or not targets & set(_QUERIES_KEYS_VALUES))
    freed += [shape.hidden] * (has_dropout or not targets & set(_GATES))
    freed += [shape.intermediate] * (has_dropout or "down_proj" not in targets)
    # With grouped-query attention, keys and values are repeated for all heads, and the narrow originals are freed.
    is_gqa = shape.keys != shape.attention
    freed += [shape.attention, shape.keys] * 3 + [shape.attention // 2, shape.keys // 2] + [shape.keys] * is_gqa
    results_per_target = 4 + has_dropout if lora.use_dora else 3
    kept_modules = _GATES if is_gqa else ("v_proj", *_GATES)
    for module in LINEAR_LAYERS:
        freed += [shape.output_size(module)] * (
            (results_per_target if module in targets else 0) + (module not in kept_modules)
        )
    return freed
