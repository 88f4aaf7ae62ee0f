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
from toolkit.models.tree_attention import accept_trees
from toolkit.models.tree_layout import model_inputs
from toolkit.planning.allocation_trace import TRACED_LAYERS, LayerTrace, TracedCall, trace_call
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

    @property
    def dtype(self) -> torch.dtype:
        """The data type of weights and activations."""
        return torch.float32 if self.dtype_bytes == torch.float32.itemsize else torch.bfloat16

    def mask_bytes(self, batch_shape: BatchShape) -> int:
        """Return the bytes of the masks of a tree that are passed to the model."""
        if not batch_shape.is_tree:
            return 0
        inputs = model_inputs(batch_shape.zeros(), self.config, self.dtype, batch_shape.prefix)
        masks: dict[int, torch.Tensor] = {}
        for mask in _masks(inputs):
            masks[id(mask)] = mask  # a mask that several layers share is counted once
        return sum(mask.nbytes for mask in masks.values())

    @lru_cache(maxsize=64)  # noqa: B019 - models are small, and a preflight traces the same ones several times
    def trace(self, batch_shape: BatchShape, *, is_training: bool) -> LayerTrace:
        """Trace a micro-batch.

        Raises:
            ModelError: If the model's code cannot be traced.
        """
        config = self._traced_config()
        inputs = model_inputs(batch_shape.zeros(), config, self.dtype, batch_shape.prefix)
        if not self.is_encoder:
            inputs["use_cache"] = False
        # Scoring with a decoder does not use mixed precision.
        is_mixed = self.dtype != torch.float32 and (is_training or self.is_encoder)
        call = TracedCall(
            inputs=inputs,
            body=None if self.is_encoder else "get_decoder",
            is_training=is_training,
            autocast=self.dtype if is_mixed else None,
            has_fused_attention=not self.on_cpu,
            prefix=batch_shape.prefix,
        )
        try:
            return trace_call(self._build(config).train(is_training), call)
        except Exception as error:  # an unusual architecture can fail anywhere in transformers
            raise ModelError(
                f"The memory of {self.recipe.model.name} cannot be predicted: {first_line(error)}.",
                hint="To measure it on this machine, add probe=True.",
            ) from error

    def _traced_config(self) -> Any:
        config = deepcopy(self.config)
        config.num_hidden_layers = TRACED_LAYERS
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:TRACED_LAYERS]
        config.num_labels = len(self.recipe.task.labels)
        return config

    def _build(self, config: Any) -> Any:
        auto_class = AutoModelForSequenceClassification if self.is_encoder else AutoModelForCausalLM
        with torch.device("meta"):
            model = _original_class(auto_class._model_mapping[type(config)])(config).to(self.dtype)
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
            accept_trees(adapted)
            return model


def _masks(inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the masks in the inputs of a tree, see `tree_layout.model_inputs`."""
    if layout := inputs.get("tree_layout"):
        masks = [mask for layer in layout for mask in (layer.path_mask, layer.group_mask)]
        masks += [layer.predicting.mask for layer in layout if layer.predicting is not None]
        return [mask for mask in masks if mask is not None]
    mask = inputs["attention_mask"]
    return list(mask.values()) if isinstance(mask, dict) else [mask]


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
    trace = model.trace(BatchShape(rows=1, length=longest, predictions=1), is_training=True)
    activations = trace.kept_bytes(model.layers, checkpointing=checkpointing) + trace.working
    logits = 0 if model.is_encoder else target_share * logit_bytes(model.config.vocab_size, 1, model.dtype_bytes)
    return round(activations / longest + logits)


def traced_training_memory(
    model: TracedModel,
    batch_shape: BatchShape,
    *,
    runtime: int,
    weights: int,
    trainable: int,
    checkpointing: bool,
    optimizer: str,
    loading: int,
) -> MemoryUse:
    """Predict the peak of a training step, see `memory.training_memory`."""
    trace, dtype_bytes, holes = model.trace(batch_shape, is_training=True), model.dtype_bytes, 0
    if model.on_cpu and not checkpointing:
        # The heap grows by anything from none to all of the holes; half is the middle, see docs/memory.md.
        holes = model.layers * heap_growth(trace.layer_freed, trace.layer_kept) // 2
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=trained_bytes(trainable, optimizer),
        activations=trace.kept_bytes(model.layers, checkpointing=checkpointing) + model.mask_bytes(batch_shape),
        logits=0 if model.is_encoder else logit_bytes(model.config.vocab_size, batch_shape.predictions, dtype_bytes),
        working=trace.working,
        holes=holes,
        loading=loading,
    )


def traced_scoring_memory(
    model: TracedModel, batch_shape: BatchShape, *, runtime: int, weights: int, loading: int
) -> MemoryUse:
    """Predict the peak of a forward pass without gradients, see `traced_training_memory`."""
    trace = model.trace(batch_shape, is_training=False)
    predictions = 0 if model.is_encoder else batch_shape.predictions
    return MemoryUse(
        runtime=runtime,
        weights=weights,
        adapter=0,
        activations=model.mask_bytes(batch_shape),
        logits=scored_logit_bytes(model.config.vocab_size, predictions, model.dtype_bytes),
        # Without gradients, a layer keeps only its keys and values, in the cache.
        working=trace.kept_bytes(model.layers, checkpointing=False) + trace.working,
        loading=loading,
    )
