"""The sizes of a Llama and of what goes through it at once, and the vectors that a layer makes of a token."""

from dataclasses import dataclass
from typing import Any, get_args

from toolkit.recipe.model_kind import DecoderTarget
from toolkit.recipe.schema import Lora

_QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")
_GATES = ("gate_proj", "up_proj")
LINEAR_LAYERS: tuple[str, ...] = get_args(DecoderTarget)


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory depends on.

    Args:
        layers: of the decoder.
        hidden: width of the residual stream.
        attention: heads times their size.
        keys: key-value heads times their size.
        intermediate: width of the MLP.
        heads: of the queries.
        vocabulary: rows of the head.
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
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * size
        return cls(
            config.num_hidden_layers, config.hidden_size, heads * size, keys, config.intermediate_size, heads,
            config.vocab_size,
        )  # fmt: skip

    def input_size(self, module: str) -> int:
        """The width of what a linear layer reads."""
        return {"o_proj": self.attention, "down_proj": self.intermediate}.get(module, self.hidden)

    def output_size(self, module: str) -> int:
        """The width of what a linear layer writes."""
        widths = {"q_proj": self.attention, "k_proj": self.keys, "v_proj": self.keys}
        return widths.get(module, self.intermediate if module in _GATES else self.hidden)


@dataclass(frozen=True)
class BatchShape:
    """What goes through the model at once.

    Args:
        tokens: padding included; nodes of a tree.
        mask: places of the attention mask, rows times length squared; of a tree, nodes squared.
        predictions: places at which the head is read.
        is_tree: whether all layers share the mask; of padded rows each layer keeps its own.
    """

    tokens: int
    mask: int
    predictions: int
    is_tree: bool


def kept_widths(shape: ModelShape, lora: Lora) -> list[int]:
    """Of the vectors that one layer keeps of one token for its backward pass.

    Two inputs of norms; queries, keys and values at the width of all heads, and the attention's output; gate, its
    activation and up; what adapters read, once where several read the same, or with dropout a copy and a mask for each;
    with DoRA also the base's and the adapter's result of each target.
    """
    targets = set(lora.target_modules)
    if lora.dropout:
        adapter_inputs = [shape.input_size(module) for module in lora.target_modules] * 2
    else:  # o_proj reads the attention's output, which is kept anyway
        adapter_inputs = [
            *[shape.hidden] * bool(targets & set(_QUERIES_KEYS_VALUES)),
            *[shape.hidden] * bool(targets & set(_GATES)),
            *[shape.intermediate] * ("down_proj" in targets),
        ]
    if lora.use_dora:  # the gradient of its magnitudes
        adapter_inputs += [shape.output_size(module) for module in lora.target_modules] * 2
    return [shape.hidden] * 2 + [shape.attention] * 4 + [shape.intermediate] * 3 + adapter_inputs


def freed_widths(shape: ModelShape, lora: Lora) -> list[int]:
    """Of the vectors that one layer makes of one token and frees again before the next layer.

    A norm's square, its normalised input, and its result, unless that is kept for adapters; the same of gate times up;
    of the rotation of queries and keys, two products, the turned copy and its negated half; of a linear layer with an
    adapter its own result, the adapter's, and that scaled; with DoRA both times magnitudes, that scaled, their sum,
    and with dropout the base's result of undropped inputs. The final result of a linear layer stays in the MLP;
    others are rotated, widened to all heads, or added to the residual stream, and the new copy is what is kept.
    """
    targets, has_dropout = set(lora.target_modules), bool(lora.dropout)
    freed = [shape.hidden] * 4
    freed += [shape.hidden] * (has_dropout or not targets & set(_QUERIES_KEYS_VALUES))
    freed += [shape.hidden] * (has_dropout or not targets & set(_GATES))
    freed += [shape.intermediate] * (has_dropout or "down_proj" not in targets)
    widened = shape.keys != shape.attention
    freed += [shape.attention, shape.keys] * 3 + [shape.attention // 2, shape.keys // 2] + [shape.keys] * widened
    results_per_target = 4 + has_dropout if lora.use_dora else 3
    kept_modules = _GATES if widened else ("v_proj", *_GATES)
    for module in LINEAR_LAYERS:
        freed += [shape.output_size(module)] * (
            (results_per_target if module in targets else 0) + (module not in kept_modules)
        )
    return freed
