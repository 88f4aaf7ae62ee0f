"""Checks for models that cannot be trained, which read only their configuration, not weights or rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.errors import ModelError
from toolkit.models.backend import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from toolkit.models.parameters import model_config
from toolkit.models.safety import read_object
from toolkit.recipe.schema import Recipe

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_MODALITIES = ("vision", "image", "audio", "speech")
_SENTENCE_TRANSFORMERS_FILES = ("modules.json", "config_sentence_transformers.json")

Problem = tuple[str, str]
"""A reason, which continues a sentence that starts with the model's name, and a hint."""


@dataclass(frozen=True)
class _Candidate:
    """A model that a recipe names.

    Args:
        folder: Its folder.
        recipe: The recipe.
    """

    folder: Path
    recipe: Recipe

    @cached_property
    def raw(self) -> dict[str, Any]:
        """The contents of config.json."""
        return read_object(self.folder / "config.json")

    @cached_property
    def config(self) -> Any:
        """The configuration with the defaults of transformers."""
        return model_config(self.folder)

    @property
    def architecture(self) -> str:
        """The model class that config.json names, or its model type."""
        return next(iter(self.config.architectures or ()), str(self.config.model_type))

    @property
    def is_decoder_recipe(self) -> bool:
        """True if the recipe trains a decoder."""
        return self.recipe.model.kind == "decoder"


def check_supported(folder: Path, recipe: Recipe) -> None:
    """Check that a model is of a type that can be trained, and of the recipe's model.kind.

    Args:
        folder: The folder of the model. Only its configuration is read.
        recipe: The recipe that names the model.

    Raises:
        ModelError: If it cannot be trained, or config.json cannot be read.
    """
    candidate = _Candidate(folder, recipe)
    for check in _CHECKS:
        if problem := check(candidate):
            reason, hint = problem
            raise ModelError(f"{recipe.model.name} {reason}.", hint=hint)


def is_quantized(folder: Path) -> bool:
    """Return whether the weights of a folder are stored quantized. An adapter cannot be merged into such weights."""
    return bool(_quantization(read_object(folder / "config.json")))


def _find_other_format(model: _Candidate) -> Problem | None:
    # The folder of a model from the Hub may have nothing but its configuration yet.
    if list(model.folder.glob("*.safetensors")) or list(model.folder.glob("*.bin")):
        return None
    found = next((file for ending in ("onnx", "gguf") for file in sorted(model.folder.rglob(f"*.{ending}"))), None)
    if found is None:
        return None
    return (
        f"stores its weights in {found.name}, but only safetensors weights can be trained",
        "Use the checkpoint that this file was converted from.",
    )


def _find_other_modalities(model: _Candidate) -> Problem | None:
    values = {**model.config.to_dict(), **model.raw}
    parts = [
        key
        for key, value in values.items()
        if isinstance(value, dict) and key.endswith("_config") and any(name in key for name in _MODALITIES)
    ]
    if not parts:
        return None
    return (
        f"is a multimodal model ({model.architecture} with {' and '.join(sorted(parts))}), but only text models are "
        "supported",
        "Use a text-only checkpoint of this family, or save its language model in a folder of its own.",
    )


def _find_encoder_decoder(model: _Candidate) -> Problem | None:
    if not getattr(model.config, "is_encoder_decoder", False):
        return None
    return (
        f"is an encoder-decoder ({model.architecture}), but only decoders and encoders are supported",
        "Use a decoder such as Qwen3, or an encoder such as CamemBERT with model.kind: encoder.",
    )


def _find_experts(model: _Candidate) -> Problem | None:
    counts = [
        value
        for values in (model.raw, model.config.to_dict())
        for key, value in _walk(values)
        if key in _EXPERT_COUNTS and type(value) is int and value > 1
    ]
    if not counts:
        return None
    return (
        f"is a mixture-of-experts model ({model.architecture} with {max(counts)} experts), but adapters, 4-bit loading "
        "and the memory prediction do not cover the experts",
        "Use a dense model, which has one MLP per layer.",
    )


def _find_quantization(model: _Candidate) -> Problem | None:
    quantization = _quantization(model.raw)
    if not quantization:
        return None
    method = quantization.get("quant_method", "bitsandbytes" if "load_in_4bit" in quantization else "unknown method")
    if method == "bitsandbytes" and quantization.get("load_in_4bit") and model.is_decoder_recipe:
        if model.recipe.model.load_in_4bit:
            return None
        return (
            "is stored in 4 bits (bitsandbytes), but model.load_in_4bit is false",
            "Set model.load_in_4bit: true, or use the 16-bit checkpoint, which can also be merged and exported.",
        )
    trainable = "16-bit, 32-bit or bitsandbytes 4-bit" if model.is_decoder_recipe else "16- or 32-bit"
    load_in_4bit = "; model.load_in_4bit: true quantizes it when it is loaded" if model.is_decoder_recipe else ""
    return (
        f"is stored quantized ({method}), but adapters are trained only on {trainable} weights",
        f"Use the unquantized checkpoint{load_in_4bit}.",
    )


def _quantization(raw: dict[str, Any]) -> dict[str, Any]:
    value = raw.get("quantization_config") or raw.get("compression_config")
    return value if isinstance(value, dict) else {"quant_method": str(value)} if value else {}


def _find_other_kind(model: _Candidate) -> Problem | None:
    # Transformers would load an encoder as a decoder and vice versa, with a new random head.
    return _find_encoder(model) if model.is_decoder_recipe else _find_decoder(model)


def _find_encoder(model: _Candidate) -> Problem | None:
    encoder_hint = "Set model.kind: encoder, or use a model that generates text."
    if any((model.folder / name).is_file() for name in _SENTENCE_TRANSFORMERS_FILES):
        return "is an embedding model (sentence-transformers), which does not generate text", encoder_hint
    name = model.architecture
    if name.endswith(("ForCausalLM", "LMHeadModel")) and not name.endswith("WithLMHeadModel"):
        return None
    if type(model.config) in MODEL_FOR_MASKED_LM_MAPPING:
        return f"is an encoder ({name}), but model.kind is decoder", encoder_hint
    # The class name of a model that was saved without its head has no "For". If its head is tied, nothing is missing.
    if "For" not in name:
        return None
    return (
        f"was saved for a task other than text generation ({name})",
        "Use the checkpoint that it was fine-tuned from.",
    )


def _find_decoder(model: _Candidate) -> Problem | None:
    model_type = type(model.config)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING or model_type in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    return (
        f"is a decoder ({model.architecture}), but model.kind is encoder",
        "Set model.kind: decoder, or use an encoder.",
    )


def _find_recurrence(model: _Candidate) -> Problem | None:
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None)
    layer_types = getattr(model.config, "layer_types", None) or ()
    # Transformers marks a model as stateful if its cache cannot be cropped.
    if not getattr(model_class, "_is_stateful", False) and all("attention" in name for name in layer_types):
        return None
    return (
        f"has layers that keep a state instead of attending ({model.architecture}), and scoring cannot go back from "
        "the end of one label to the start of the next",
        "Use a model with attention in all layers.",
    )


def _find_missing_window(model: _Candidate) -> Problem | None:
    layer_types = getattr(model.config, "layer_types", None) or ()
    if "sliding_attention" not in layer_types or getattr(model.config, "sliding_window", None) is not None:
        return None
    return (
        "has layers with sliding attention (layer_types in config.json), but its sliding_window is null",
        "Copy config.json again from the model's source.",
    )


def _walk(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all keys of nested objects with their values."""
    for key, value in values.items():
        yield key, value
        if isinstance(value, dict):
            yield from _walk(value)


_CHECKS: tuple[Callable[[_Candidate], Problem | None], ...] = (
    _find_other_format,
    _find_other_modalities,
    _find_encoder_decoder,
    _find_experts,
    _find_quantization,
    _find_other_kind,
    _find_recurrence,
    _find_missing_window,
)
