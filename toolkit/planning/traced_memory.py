"""The memory of models whose layers are not those of a Llama, from a trace of their own code."""

import importlib.util
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch

from toolkit.errors import ModelError, first_line
from toolkit.models.backend import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LoraConfig,
    get_peft_model,
)
from toolkit.models.encoder import attach_encoder_lora
from toolkit.planning.allocation_trace import TRACED_LAYERS, InputShape, LayerTrace, TracedCall, trace_call
from toolkit.planning.device import Device
from toolkit.planning.heap import heap_growth
from toolkit.planning.memory import MemoryUse, logit_bytes, scored_logit_bytes, trained_bytes
from toolkit.planning.preflight import Preflight
from toolkit.planning.shapes import BatchShape
from toolkit.recipe.schema import Recipe


@dataclass(frozen=True)
class TracedModel:
    """A model whose memory is predicted by a trace of its own code.

    Args:
        config: Its configuration.
        recipe: The recipe, for the adapter and the labels.
        dtype_bytes: Bytes per weight and activation.
        on_cpu: True if it runs on a CPU.
    """

    config: Any = field(compare=False)
    recipe: Recipe = field(compare=False)
    dtype_bytes: int
    on_cpu: bool
    key: str = ""
    """The key of the model in the cache of traces, derived from its other fields."""

    def __post_init__(self) -> None:
        parts = (self.config.to_json_string(), self.recipe.lora, self.recipe.model.kind, len(self.recipe.task.labels))
        object.__setattr__(self, "key", repr(parts))

    @property
    def layers(self) -> int:
        """The number of layers."""
        return self.config.num_hidden_layers

    @property
    def is_encoder(self) -> bool:
        """True for an encoder with a classification head."""
        return self.recipe.model.kind == "encoder"

    def mask_bytes(self, batch_shape: BatchShape, longest: int) -> int:
        """Return the bytes of the masks of a tree that are passed to the model.

        Args:
            batch_shape: The sizes of the tree.
            longest: The length of the longest row. If it exceeds the sliding window of some layers, they need a mask
                of their own.
        """
        window, types = getattr(self.config, "sliding_window", None), getattr(self.config, "layer_types", None) or ()
        masks = 2 if window and longest > window and len(set(types)) > 1 else 1
        return masks * batch_shape.mask * self.dtype_bytes if batch_shape.is_tree else 0

    @lru_cache(maxsize=64)  # noqa: B019 - models are small, and a preflight traces the same ones several times
    def trace(self, batch_shape: BatchShape, *, is_training: bool) -> LayerTrace:
        """Trace a micro-batch.

        Raises:
            ModelError: If the model's code cannot be traced.
        """
        dtype = torch.float32 if self.dtype_bytes == torch.float32.itemsize else torch.bfloat16
        rows, length = batch_shape.tokens // batch_shape.length, batch_shape.length
        mask: InputShape = ((1, 1, length, length), dtype) if batch_shape.is_tree else ((rows, length), torch.long)
        inputs: dict[str, InputShape] = {"input_ids": ((rows, length), torch.long), "attention_mask": mask}
        # Scoring with a decoder does not use mixed precision.
        is_mixed = dtype != torch.float32 and (is_training or self.is_encoder)
        call = TracedCall(
            inputs=inputs,
            body=None if self.is_encoder else "get_decoder",
            is_training=is_training,
            autocast=dtype if is_mixed else None,
            has_fused_attention=not self.on_cpu,
        )
        try:
            return trace_call(self._build(dtype).train(is_training), call)
        except Exception as error:  # an unusual architecture can fail anywhere in transformers
            raise ModelError(
                f"The memory of {self.recipe.model.name} cannot be predicted: {first_line(error)}.",
                hint="To measure it on this machine, add probe=True.",
            ) from error

    def _build(self, dtype: torch.dtype) -> Any:
        config = deepcopy(self.config)
        config.num_hidden_layers = TRACED_LAYERS
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:TRACED_LAYERS]
        config.num_labels = len(self.recipe.task.labels)
        auto_class = AutoModelForSequenceClassification if self.is_encoder else AutoModelForCausalLM
        with torch.device("meta"):
            model = _original_class(auto_class._model_mapping[type(config)])(config).to(dtype)
            if self.is_encoder:
                lora = self.recipe.lora
                return model.float() if lora is None else attach_encoder_lora(model, lora, seed=0)
            lora = self.recipe.decoder_lora
            adapter = LoraConfig(
                r=lora.r,
                lora_dropout=lora.dropout,
                target_modules=list(lora.target_modules),
                use_dora=lora.use_dora,
                task_type="CAUSAL_LM",
            )
            adapted = get_peft_model(model, adapter)
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            return model


def _original_class(model_class: Any) -> Any:
    """Return a model class as transformers defines it.

    On a GPU, Unsloth replaces the forward methods of the classes of loaded models, and its kernels cannot run without
    data.
    """
    spec = importlib.util.find_spec(model_class.__module__)
    if spec is None or spec.loader is None:
        return model_class
    module = importlib.util.module_from_spec(spec)
    # DeBERTa compiles some functions, which then do not accept fake tensors.
    with patch.object(torch.jit, "script", lambda function: function):
        spec.loader.exec_module(module)
    return getattr(module, model_class.__name__)


def find_traced_model(preflight: Preflight[Any], device: Device) -> TracedModel | None:
    """Return the model to trace, or None for a Llama, for which there is a formula.

    The formula also holds for Unsloth's kernels for Llama on a GPU, and costs no time.
    """
    if "LlamaForCausalLM" in (preflight.config.architectures or ()) and preflight.recipe.model.kind == "decoder":
        return None
    return TracedModel(preflight.config, preflight.recipe, device.dtype_bytes(preflight), device.kind == "cpu")


def traced_bytes_per_token(model: TracedModel, longest: int, *, checkpointing: bool, target_share: float) -> int:
    """Return the bytes of activations, working memory and logits per token, see `memory.activation_bytes_per_token`.

    Args:
        model: The model.
        longest: The length of the longest row. It matters because attention can keep a number per pair of tokens.
        checkpointing: True if layers are recomputed.
        target_share: The share of the positions that predict a target token.
    """
    trace = model.trace(BatchShape(longest, longest**2, 1, is_tree=False), is_training=True)
    activations = trace.kept_bytes(model.layers, checkpointing=checkpointing) + trace.working
    logits = 0 if model.is_encoder else target_share * logit_bytes(model.config.vocab_size, 1, model.dtype_bytes)
    return round(activations / longest + logits)


def traced_training_memory(
    model: TracedModel,
    batch_shape: BatchShape,
    longest: int,
    *,
    runtime: int,
    weights: int,
    trainable: int,
    checkpointing: bool,
    optimizer: str,
    loading: int,
) -> MemoryUse:
    """Predict the peak of a training step, see `memory.training_memory`. `longest` is the length of the longest row."""
    trace, dtype_bytes, holes = model.trace(batch_shape, is_training=True), model.dtype_bytes, 0
    if model.on_cpu and not checkpointing:
        # The heap grows by anything from none to all of the holes; half is the middle, see docs/memory.md.
        holes = model.layers * heap_growth(trace.layer_freed, trace.layer_kept) // 2
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=trained_bytes(trainable, optimizer),
        activations=trace.kept_bytes(model.layers, checkpointing=checkpointing)
        + model.mask_bytes(batch_shape, longest),
        logits=0 if model.is_encoder else logit_bytes(model.config.vocab_size, batch_shape.predictions, dtype_bytes),
        working=trace.working,
        holes=holes,
        loading=loading,
    )


def traced_scoring_memory(
    model: TracedModel, batch_shape: BatchShape, longest: int, *, runtime: int, weights: int, loading: int
) -> MemoryUse:
    """Predict the peak of a forward pass without gradients, see `traced_training_memory`."""
    trace = model.trace(batch_shape, is_training=False)
    predictions = 0 if model.is_encoder else batch_shape.predictions
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=0,
        activations=model.mask_bytes(batch_shape, longest),
        logits=scored_logit_bytes(model.config.vocab_size, predictions, model.dtype_bytes),
        working=trace.kept + trace.working,
        loading=loading,
    )
