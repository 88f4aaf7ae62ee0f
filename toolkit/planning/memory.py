"""How much memory training and scoring need, term by term, from the shapes of a model and a batch alone.

The terms follow from what autograd keeps in the layers of a Llama as transformers writes it (docs/memory.md has the
derivation, and what was measured beside it); no factor is fitted.
"""

from dataclasses import dataclass, fields

from toolkit.planning.heap import hole_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, kept_widths
from toolkit.recipe.schema import Lora

_FLOAT = 4
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Of state for a trained parameter, where it is not the 8 of AdamW's two float32 averages."""


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
        holes: what the C library's heap cannot give out again, see `planning.heap`; none on a GPU.
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
        sizes = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "loading"}
        terms = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in sizes.items() if size)
        return f"{self.total / 1e9:.2f} GB ({terms})"


def layer_bytes(shape: ModelShape, lora: Lora, dtype_bytes: int) -> int:
    """What one decoder layer keeps of one token for its backward pass.

    The vectors of `kept_widths`; in half precision a float32 copy of both norms' inputs; the adapters' low-rank
    results in float32; a number per head and norm.
    """
    copies = 0 if dtype_bytes == _FLOAT else 2 * shape.hidden * _FLOAT
    float32_results = _FLOAT * (lora.r * len(lora.target_modules) + shape.heads + 2)
    return sum(kept_widths(shape, lora)) * dtype_bytes + copies + float32_results


def activation_bytes_per_token(
    shape: ModelShape, lora: Lora, *, dtype_bytes: int, checkpointing: bool, trained_share: float
) -> int:
    """What a token costs while a part is trained: kept activations, a layer's working memory, its share of logits.

    Args:
        shape: of the model.
        lora: the adapter.
        dtype_bytes: bytes of a number.
        checkpointing: whether layers are recomputed, so that only their inputs are kept, and one layer whole.
        trained_share: of the tokens, those that predict a trained token.
    """
    batch_shape = BatchShape(1, 0, 1, is_tree=True)
    logits = trained_share * logit_bytes(shape, batch_shape, dtype_bytes)
    kept = kept_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes, checkpointing=checkpointing)
    return round(kept + working_bytes(shape, batch_shape, dtype_bytes) + logits)


def kept_bytes(shape: ModelShape, lora: Lora, batch_shape: BatchShape, *, dtype_bytes: int, checkpointing: bool) -> int:
    """Activations of all layers and the input of the last norm; see `layer_bytes`."""
    layer = layer_bytes(shape, lora, dtype_bytes) * batch_shape.tokens + (
        0 if batch_shape.is_tree else batch_shape.mask * dtype_bytes
    )
    shared = batch_shape.mask * dtype_bytes if batch_shape.is_tree else 0
    inputs = shape.hidden * dtype_bytes * batch_shape.tokens
    if checkpointing:
        return (shape.layers + 1) * inputs + layer + shared
    return shape.layers * layer + inputs + shared


def logit_bytes(shape: ModelShape, batch_shape: BatchShape, dtype_bytes: int) -> int:
    """See `MemoryUse.logits`."""
    return batch_shape.predictions * shape.vocabulary * (3 * _FLOAT + (0 if dtype_bytes == _FLOAT else 2 * dtype_bytes))


def working_bytes(shape: ModelShape, batch_shape: BatchShape, dtype_bytes: int) -> int:
    """The backward pass of one layer: gradients of gate, its activation, up and their product, and of four rows of the
    hidden size."""
    return batch_shape.tokens * dtype_bytes * 4 * (shape.intermediate + shape.hidden)


def dora_bytes(shape: ModelShape, lora: Lora, dtype_bytes: int) -> int:
    """What DoRA makes of a layer's largest target and frees again, to measure its columns: 0 for any other adapter.

    As PEFT computes B A: a unit matrix of the inputs and the product, in float32; in half precision a copy of the
    product; the product scaled, and the weights with it. No gradient goes through them (arXiv 2402.09353, section 4.3),
    so nothing of this is kept.
    """
    if not lora.use_dora:
        return 0
    copies = 2 if dtype_bytes == _FLOAT else 3
    sizes = [(shape.input_size(module), shape.output_size(module)) for module in lora.target_modules]
    return max(
        _FLOAT * input_size * (input_size + output_size) + copies * dtype_bytes * input_size * output_size
        for input_size, output_size in sizes
    )


def training_memory(
    shape: ModelShape,
    lora: Lora,
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
    """The peak of a training step.

    Args:
        shape: of the model.
        lora: the adapter.
        batch_shape: the largest part of a step.
        runtime: bytes held before the model is loaded.
        weights: bytes of the base's weights.
        trainable: parameters of the adapter, trained in float32.
        dtype_bytes: bytes of a number in activations.
        checkpointing: whether layers are recomputed.
        optimizer: transformers' name for it.
        on_cpu: whether the C library gives out the memory.
        loading: see `MemoryUse`.
    """
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=trainable * (2 * _FLOAT + OPTIMIZER_BYTES.get(optimizer, 2 * _FLOAT)),
        activations=kept_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes, checkpointing=checkpointing),
        logits=logit_bytes(shape, batch_shape, dtype_bytes),
        # Its weight-sized blocks are gone before the backward pass begins, or that of a layer that is recomputed.
        working=max(working_bytes(shape, batch_shape, dtype_bytes), dora_bytes(shape, lora, dtype_bytes)),
        holes=hole_bytes(shape, lora, batch_shape, dtype_bytes=dtype_bytes) if on_cpu and not checkpointing else 0,
        loading=loading,
    )


def scoring_memory(
    shape: ModelShape,
    lora: Lora,
    batch_shape: BatchShape,
    *,
    runtime: int,
    weights: int,
    dtype_bytes: int,
    on_cpu: bool = False,
    loading: int = 0,
) -> MemoryUse:
    """Predict the peak of a forward pass that keeps one layer's results alone.

    In half precision a CPU with AMX copies keys and values, at the width of all heads, into the order that its matrix
    units read; other CPUs do not, and for them a tenth too much is predicted. The arguments are those of
    `training_memory`.
    """
    packed = 2 * shape.attention if on_cpu and dtype_bytes < _FLOAT else 0
    layer = (
        batch_shape.tokens * dtype_bytes * (4 * shape.attention + 4 * shape.intermediate + 4 * shape.hidden + packed)
    )
    logits_bytes = 2 * _FLOAT if dtype_bytes == _FLOAT else dtype_bytes + 2 * _FLOAT
    logits = batch_shape.predictions * shape.vocabulary * logits_bytes
    working = max(layer, dora_bytes(shape, lora, dtype_bytes))
    return MemoryUse(runtime, weights, 0, batch_shape.mask * dtype_bytes, logits, working, loading=loading)
