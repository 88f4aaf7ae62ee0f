"""The memory formula for training and scoring, term by term, from the sizes of a Llama and of a micro-batch.

The terms follow from the tensors that autograd keeps in the layers of a Llama in transformers. No factor is fitted.
`traced_memory` predicts the memory of all other models. docs/memory.md has the derivation and compares predictions with
measurements.
"""

from dataclasses import dataclass, fields

from toolkit.planning.heap import hole_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, kept_blocks
from toolkit.recipe.schema import LoraSection
from toolkit.utils.formatting import format_bytes

_FLOAT32_BYTES = 4
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of optimizer state per trainable parameter. Other optimizers have AdamW's two float32 moments, 8 bytes."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes at the peak, by purpose.

    Args:
        runtime: The process or the CUDA context before a model is loaded.
        weights: The weights of the base model.
        adapter: The trainable parameters, their gradients and the optimizer state.
        activations: Tensors that the forward pass keeps for the backward pass, including masks.
        logits: At the predicting positions: the log-softmax, its gradient and the gradient of the logits, all in
            float32. In half precision also the logits and their gradient in that precision.
        working: Intermediate results of one layer and their gradients, which are freed again.
        holes: Holes in the heap of the C library, see `planning.heap`. Always 0 on a GPU.
        loading: Pages of the weight files while they are read and converted. The system can reclaim them.
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
        """Bytes that a step holds.

        Logits and working memory are not needed at the same time, but they add up, because freed blocks are not
        returned to the system at once.
        """
        return sum(getattr(self, field.name) for field in fields(self)) - self.loading

    @property
    def peak(self) -> int:
        """The peak of the whole process: during a step or while it reads the weights."""
        return max(self.total, self.runtime + self.weights + self.loading)

    def __str__(self) -> str:
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "loading"}
        terms = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items() if size)
        return f"{format_bytes(self.total)} ({terms})"


def layer_bytes(
    shape: ModelShape, lora: LoraSection, batch_shape: BatchShape, dtype_bytes: int, *, is_last: bool = False
) -> int:
    """Return the bytes that one decoder layer keeps for its backward pass, without masks.

    These are the blocks of `kept_blocks`, the low-rank results of the adapters in float32, and a float32 number per
    head and norm. In half precision, both norms also keep a float32 copy of their input.
    """
    all_tokens, split = batch_shape.tokens, batch_shape.split
    tokens = batch_shape.last_tokens if is_last else all_tokens
    queries = tokens if split is None or tokens < all_tokens else split.path + batch_shape.group_queries
    copies = 0 if dtype_bytes == _FLOAT32_BYTES else 2 * shape.hidden
    float32_numbers = (copies + 2) * all_tokens + shape.heads * queries + lora.r * len(lora.target_modules) * tokens
    return sum(kept_blocks(shape, lora, batch_shape, is_last=is_last)) * dtype_bytes + _FLOAT32_BYTES * float32_numbers


def activation_bytes_per_token(
    shape: ModelShape, lora: LoraSection, *, dtype_bytes: int, checkpointing: bool, target_share: float
) -> int:
    """Return the bytes of activations, working memory and logits per token of a micro-batch.

    Args:
        shape: The sizes of the model.
        lora: The LoRA section of the recipe.
        dtype_bytes: Bytes per activation.
        checkpointing: Whether layers are recomputed, so that only their inputs and the activations of one layer are
            kept.
        target_share: The share of the positions that predict a target token.
    """
    # Without masks, whose size grows with the square of the length.
    batch_shape = BatchShape(rows=1, length=1, predictions=1, is_tree=True)
    logits = target_share * logit_bytes(shape.vocabulary, 1, dtype_bytes)
    kept = kept_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes, checkpointing=checkpointing)
    kept -= batch_shape.mask_elements(shape) * dtype_bytes
    return round(kept + working_bytes(shape, batch_shape, dtype_bytes) + logits)


def kept_bytes(
    shape: ModelShape, lora: LoraSection, batch_shape: BatchShape, *, dtype_bytes: int, checkpointing: bool
) -> int:
    """Return the bytes of activations that all layers and the last norm keep, see `layer_bytes`."""
    mask = batch_shape.mask_elements(shape) * dtype_bytes
    # All layers share the masks of a tree. For padded rows, each layer keeps its own.
    shared, own = (mask, 0) if batch_shape.is_tree else (0, mask)
    shared += _rotary_elements(shape, batch_shape) * dtype_bytes
    layer = layer_bytes(shape, lora, batch_shape, dtype_bytes) + own
    layer_input = shape.hidden * dtype_bytes * batch_shape.tokens
    if checkpointing:  # the inputs of all layers and of the last norm, and the layer that is being recomputed
        return (shape.layers + 1) * layer_input + layer + shared
    last = layer_bytes(shape, lora, batch_shape, dtype_bytes, is_last=True) + own
    return (shape.layers - 1) * layer + last + layer_input + shared


def _rotary_elements(shape: ModelShape, batch_shape: BatchShape) -> int:
    """Return the number of cosines and sines of the rotary embedding, which all rows and layers share."""
    return 2 * batch_shape.length * shape.attention // shape.heads


def logit_bytes(vocabulary: int, predictions: int, dtype_bytes: int) -> int:
    """Return the bytes of logits during training, see `MemoryUse.logits`."""
    return predictions * vocabulary * (3 * _FLOAT32_BYTES + (0 if dtype_bytes == _FLOAT32_BYTES else 2 * dtype_bytes))


def scored_logit_bytes(vocabulary: int, predictions: int, dtype_bytes: int) -> int:
    """Return the bytes of logits during scoring: log-softmax and logits in float32, and those in half precision."""
    return predictions * vocabulary * (2 * _FLOAT32_BYTES + (0 if dtype_bytes == _FLOAT32_BYTES else dtype_bytes))


def trained_bytes(trainable: int, optimizer: str) -> int:
    """Return the bytes of trainable parameters in float32, their gradients and the optimizer state."""
    return trainable * (2 * _FLOAT32_BYTES + OPTIMIZER_BYTES.get(optimizer, 2 * _FLOAT32_BYTES))


def working_bytes(shape: ModelShape, batch_shape: BatchShape, dtype_bytes: int) -> int:
    """Return the bytes of temporary tensors in the backward pass of one layer.

    These are the gradients of gate, its activation, up and their product, and of four vectors of the hidden size.
    """
    return batch_shape.tokens * dtype_bytes * 4 * (shape.intermediate + shape.hidden)


def dora_bytes(shape: ModelShape, lora: LoraSection, dtype_bytes: int) -> int:
    """Return the bytes that DoRA needs temporarily for the weight norm of a layer's largest target, or 0 without DoRA.

    PEFT computes BA by applying the adapter to an identity matrix. It holds that matrix and the product in float32, a
    copy of the product in half precision, the scaled product, and its sum with the weights.
    """
    if not lora.use_dora:
        return 0
    # The backward pass treats the norm as a constant (arXiv 2402.09353, section 4.3), so nothing of this is kept.
    copies = 2 if dtype_bytes == _FLOAT32_BYTES else 3
    sizes = [(shape.input_size(module), shape.output_size(module)) for module in lora.target_modules]
    return max(
        _FLOAT32_BYTES * input_size * (input_size + output_size) + copies * dtype_bytes * input_size * output_size
        for input_size, output_size in sizes
    )


def training_memory(
    shape: ModelShape,
    lora: LoraSection,
    batch_shape: BatchShape,
    *,
    runtime: int,
    weights: int,
    trainable: int,
    dtype_bytes: int,
    checkpointing: bool,
    optimizer: str,
    on_cpu: bool = False,
    loading: int = 0,
) -> MemoryUse:
    """Predict the peak of a training step.

    Args:
        shape: The sizes of the model.
        lora: The LoRA section of the recipe.
        batch_shape: The sizes of the largest micro-batch.
        runtime: Bytes held before the model is loaded.
        weights: Bytes of the base model's weights.
        trainable: The number of parameters of the adapter, which trains in float32.
        dtype_bytes: Bytes per activation.
        checkpointing: Whether layers are recomputed in the backward pass.
        optimizer: The name of the optimizer in transformers.
        on_cpu: Whether memory comes from the heap of the C library.
        loading: Bytes of weight files in memory while they are read, see `MemoryUse`.
    """
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=trained_bytes(trainable, optimizer),
        activations=kept_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes, checkpointing=checkpointing),
        logits=logit_bytes(shape.vocabulary, batch_shape.predictions, dtype_bytes),
        # DoRA frees its weight-sized tensors before the backward pass of the model (or of a recomputed layer) starts,
        # so the two are never held at the same time.
        working=max(working_bytes(shape, batch_shape, dtype_bytes), dora_bytes(shape, lora, dtype_bytes)),
        holes=hole_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes) if on_cpu and not checkpointing else 0,
        loading=loading,
    )


def scoring_memory(
    shape: ModelShape,
    lora: LoraSection,
    batch_shape: BatchShape,
    *,
    runtime: int,
    weights: int,
    dtype_bytes: int,
    on_cpu: bool = False,
    loading: int = 0,
) -> MemoryUse:
    """Predict the peak of a forward pass without gradients, which holds the results of one attention or MLP at a time.

    See `training_memory` for the arguments.
    """
    is_packed = on_cpu and dtype_bytes < _FLOAT32_BYTES
    attention = _attention_elements(shape, batch_shape, is_packed=is_packed)
    mlp = 4 * shape.intermediate * batch_shape.tokens
    # With dense attention, both are counted, because copies of the mask also take memory.
    layer = max(attention, mlp) if batch_shape.split is not None else attention + mlp
    # These are the embeddings, the input of a layer, and its residual connections, normalized or not.
    layer += 5 * shape.hidden * batch_shape.tokens + _rotary_elements(shape, batch_shape)
    # All layers cache the keys and values of the prefix, and those of the tree until the end of the forward pass.
    cached = 2 * shape.layers * shape.keys * (batch_shape.prefix + batch_shape.length) if batch_shape.prefix else 0
    logits = scored_logit_bytes(shape.vocabulary, batch_shape.predictions, dtype_bytes)
    working = max(layer * dtype_bytes, dora_bytes(shape, lora, dtype_bytes))
    activations = (batch_shape.mask_elements(shape) + cached) * dtype_bytes
    return MemoryUse(runtime, weights, 0, activations, logits, working, loading=loading)


def _attention_elements(shape: ModelShape, batch_shape: BatchShape, *, is_packed: bool) -> int:
    """Return the number of elements that a layer's attention holds: queries, keys, values, results and copies.

    In half precision, CPUs with AMX also copy keys and values into the layout of their matrix units (`is_packed`). For
    other CPUs this predicts about 10% too much.
    """
    if batch_shape.split is None:  # keys and values are repeated for all heads
        keys = batch_shape.rows * (batch_shape.prefix + batch_shape.length)
        return shape.attention * (2 * batch_shape.tokens + (2 + 2 * is_packed) * keys)
    # These are the queries and results of the groups, with copies if heads share a key head; see `tree_attention`.
    copies = 4 if shape.heads_per_key > 1 else 3
    queries = shape.attention * (batch_shape.tokens + copies * batch_shape.group_queries)
    return queries + (2 + 2 * is_packed) * shape.keys * batch_shape.group_keys
