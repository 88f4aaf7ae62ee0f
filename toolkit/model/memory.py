"""How much memory training and scoring need, term by term, from the shapes of a model and a batch alone.

The terms follow from what autograd keeps in the layers of a Llama as transformers writes it (docs/memory.md has the
derivation, and what was measured beside it); no factor is fitted.
"""

import ctypes
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from toolkit.recipe import Lora

_FLOAT = 4
_OWN_BLOCK = 32 << 20
_M_MMAP_THRESHOLD = -3  # malloc.h
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_GATES = ("gate_proj", "up_proj")
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Of state for a trained parameter, where it is not the 8 of AdamW's two float32 averages."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory depends on: `attention` is heads times their size, `vocabulary` the rows of the head."""

    layers: int
    hidden: int
    attention: int
    intermediate: int
    heads: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "ModelShape":
        """Read a transformers configuration."""
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            config.num_hidden_layers, config.hidden_size, heads * size, config.intermediate_size, heads,
            config.vocab_size,
        )  # fmt: skip

    def input_size(self, module: str) -> int:
        """The width of what a target module of LoRA reads."""
        return {"o_proj": self.attention, "down_proj": self.intermediate}.get(module, self.hidden)


@dataclass(frozen=True)
class Part:
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


@dataclass(frozen=True)
class MemoryUse:
    """Bytes at the peak, by what holds them.

    Args:
        runtime: the process or the device's context before a model is loaded.
        weights: the base's, in their number format.
        adapter: trained parameters, their gradients and the optimiser's state.
        activations: what the forward pass keeps for the backward pass, masks included.
        logits: at the predicting places, in float32: their log-softmax, its gradient and their own; in half
            precision the logits and their gradient once more.
        working: a layer's intermediate results and their gradients, which are freed again.
        holes: what the C library's heap cannot give out again, see `hole_bytes`; none on a GPU.
        loading: pages of the weights' files while they are read and converted; the system takes them back.
    """

    runtime: int
    weights: int
    adapter: int
    activations: int
    logits: int
    working: int
    holes: int = 0
    loading: int = 0

    @property
    def total(self) -> int:
        """What a step holds: freed blocks are not returned at once, so logits and working memory do not share room."""
        return sum(getattr(self, field.name) for field in fields(self)) - self.loading

    @property
    def peak(self) -> int:
        """The most that the process is seen to hold: in a step, or while it reads the weights."""
        return max(self.total, self.runtime + self.weights + self.loading)

    def __str__(self) -> str:
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "loading"}
        terms = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in found.items() if size)
        return f"{self.total / 1e9:.2f} GB ({terms})"


def layer_bytes(shape: ModelShape, lora: Lora, item: int) -> int:
    """What one decoder layer keeps of one token for its backward pass.

    Two inputs of norms (in half precision also float32 copies); queries, keys and values at the width of all
    heads, and the attention's output; gate, its activation and up; what adapters read, once where several read the
    same, or with dropout a copy and a mask for each; their low-rank results in float32; a number per head and norm.
    """
    norms = 2 * shape.hidden * (item if item == _FLOAT else item + _FLOAT)
    read = sum(2 * shape.input_size(module) for module in lora.target_modules) if lora.dropout else _shared(shape, lora)
    vectors = 4 * shape.attention + 3 * shape.intermediate + read
    small = _FLOAT * (lora.r * len(lora.target_modules) + shape.heads + 2)
    return norms + vectors * item + small


def _shared(shape: ModelShape, lora: Lora) -> int:
    """Widths that adapters read and nothing else keeps: o_proj's is the attention's output, which is kept anyway."""
    targets = set(lora.target_modules)
    return (
        shape.hidden * bool(targets & set(_ATTENTION))
        + shape.hidden * bool(targets & set(_GATES))
        + shape.intermediate * ("down_proj" in targets)
    )


def activation_bytes_per_token(
    shape: ModelShape, lora: Lora, *, item: int, checkpointing: bool, trained_share: float
) -> int:
    """What a token costs while a part is trained: kept activations, a layer's working memory, its share of logits.

    Args:
        shape: of the model.
        lora: the adapter.
        item: bytes of a number.
        checkpointing: whether layers are recomputed, so that only their inputs are kept, and one layer whole.
        trained_share: of the tokens, those that predict a trained token.
    """
    part = Part(1, 0, 1, is_tree=True)
    logits = trained_share * logit_bytes(shape, part, item)
    kept = kept_bytes(shape, lora, part, item=item, checkpointing=checkpointing)
    return round(kept + working_bytes(shape, part, item) + logits)


def kept_bytes(shape: ModelShape, lora: Lora, part: Part, *, item: int, checkpointing: bool) -> int:
    """Activations of all layers and the input of the last norm; see `layer_bytes`."""
    layer = layer_bytes(shape, lora, item) * part.tokens + (0 if part.is_tree else part.mask * item)
    shared = part.mask * item if part.is_tree else 0
    inputs = shape.hidden * item * part.tokens
    if checkpointing:
        return (shape.layers + 1) * inputs + layer + shared
    return shape.layers * layer + inputs + shared


def logit_bytes(shape: ModelShape, part: Part, item: int) -> int:
    """See `MemoryUse.logits`."""
    return part.predictions * shape.vocabulary * (3 * _FLOAT + (0 if item == _FLOAT else 2 * item))


def working_bytes(shape: ModelShape, part: Part, item: int) -> int:
    """The backward pass of one layer: gradients of gate, its activation, up and their product, and of four rows of the
    hidden size."""
    return part.tokens * item * 4 * (shape.intermediate + shape.hidden)


def return_freed_blocks() -> None:
    """Let glibc give freed blocks from 1 MiB on back to the system at once, so that they leave no holes.

    Where layers are recomputed, every block is freed and asked for again: a deep, narrow model was seen to hold 6.8 GB
    instead of 1.5. Pages have to be cleared anew for it, which takes time, so only who asks for checkpointing pays.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def hole_bytes(shape: ModelShape, part: Part, *, item: int) -> int:
    """What layers free between blocks that stay: glibc's heap cannot give an aligned block the hole of an equal one.

    A layer frees the product of gate and up, queries before and beside their rotation, and the attention's projection
    before adapter and residual are added. Blocks of 32 MiB and more are the system's own and leave no hole (mallopt(3),
    DEFAULT_MMAP_THRESHOLD_MAX). With checkpointing there are none, see `return_freed_blocks`.
    """
    widths = [shape.intermediate, shape.attention, shape.attention, shape.hidden, shape.hidden]
    blocks = [part.tokens * width * item for width in widths]
    return shape.layers * sum(block for block in blocks if block < _OWN_BLOCK)


def training_memory(
    shape: ModelShape,
    lora: Lora,
    part: Part,
    *,
    runtime: int,
    weights: int,
    trainable: int,
    item: int,
    checkpointing: bool,
    optimizer: str,
    on_cpu: bool = False,
    loading: int = 0,
) -> MemoryUse:
    """The peak of a training step.

    Args:
        shape: of the model.
        lora: the adapter.
        part: the largest part of a step.
        runtime: bytes held before the model is loaded.
        weights: bytes of the base's weights.
        trainable: parameters of the adapter, trained in float32.
        item: bytes of a number in activations.
        checkpointing: whether layers are recomputed.
        optimizer: transformers' name for it.
        on_cpu: whether the C library gives out the memory.
        loading: see `MemoryUse`.
    """
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=trainable * (2 * _FLOAT + OPTIMIZER_BYTES.get(optimizer, 2 * _FLOAT)),
        activations=kept_bytes(shape, lora, part, item=item, checkpointing=checkpointing),
        logits=logit_bytes(shape, part, item),
        working=working_bytes(shape, part, item),
        holes=hole_bytes(shape, part, item=item) if on_cpu and not checkpointing else 0,
        loading=loading,
    )


def scoring_memory(shape: ModelShape, part: Part, *, runtime: int, weights: int, item: int) -> MemoryUse:
    """The peak of a forward pass that keeps nothing but one layer's results."""
    layer = part.tokens * item * (4 * shape.attention + 4 * shape.intermediate + 4 * shape.hidden)
    logits = part.predictions * shape.vocabulary * (item + _FLOAT)
    return MemoryUse(runtime, weights, 0, part.mask * item, logits, layer)
