"""The config.json of a Llama model folder: the fields that a GGUF file needs, checked for what it cannot express."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import ExportError


@dataclass(frozen=True)
class Llama3Scaling:
    """The parameters of `rope_type: llama3`; lengths are in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class DecoderConfig:
    """The fields of config.json that a GGUF file needs, with their Hugging Face names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tie_word_embeddings: bool


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ExportError: If the file is missing or does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(
            f"{path.parent} has no {path.name}, so it is not a complete model folder.",
            hint="Give the folder that merging wrote, with config.json, tokenizer.json, and safetensors.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path} cannot be read: {error}.", hint="Merge again, or copy the file again.") from error
    if not isinstance(value, dict):
        raise ExportError(f"{path} contains a {type(value).__name__} instead of an object.", hint="Merge again.")
    return value


def read_config(folder: Path) -> DecoderConfig:
    """Return the configuration of a Llama model folder.

    Raises:
        ExportError: If the model has a different architecture, 4- or 8-bit weights, or an activation or rotary scaling
            that llama.cpp's Llama does not compute.
    """
    raw = read_json(folder / "config.json")
    architectures = raw.get("architectures") or ["a model without architecture"]
    if architectures != ["LlamaForCausalLM"]:
        raise ExportError(
            f"{folder} contains {', '.join(architectures)}, but only LlamaForCausalLM can be exported to GGUF.",
            hint="Train a Llama model, or convert this one with llama.cpp's own convert_hf_to_gguf.py.",
        )
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unknown method") if isinstance(quantization, dict) else quantization
        raise ExportError(
            f"The weights of {folder} are quantized ({method}), but GGUF needs 16- or 32-bit weights.",
            hint="Merge the adapter into the 16-bit base model and export that folder.",
        )
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise ExportError(f"{folder} uses the activation {activation!r}, but llama.cpp's Llama computes only silu.")
    try:
        return _config(raw, folder)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ExportError(
            f"{folder / 'config.json'} has a missing or invalid value: {error}.", hint="Merge again."
        ) from error


def _config(raw: dict[str, Any], folder: Path) -> DecoderConfig:
    heads = int(raw["num_attention_heads"])
    rope = _rope_parameters(raw)
    # Configurations of the first Llama models have neither `num_key_value_heads` nor `head_dim`.
    return DecoderConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_hidden_layers=int(raw["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        max_position_embeddings=int(raw["max_position_embeddings"]),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        rope_scaling=_rope_scaling(rope, folder),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
    )


def _rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of either layout: transformers 5 (`rope_parameters`) or 4 (`rope_scaling`)."""
    # transformers 4 keeps `rope_theta` outside `rope_scaling`, transformers 5 puts it inside `rope_parameters`.
    older = {"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {}
    return {**older, **(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}


def _rope_scaling(rope: dict[str, Any], folder: Path) -> Llama3Scaling | None:
    rope_type = rope.get("rope_type", rope.get("type", "default"))  # older configurations call it `type`
    if rope_type == "default":
        return None
    if rope_type != "llama3":
        raise ExportError(
            f"{folder} uses the rotary scaling {rope_type!r}, but only Llama 3's scaling can be exported.",
            hint="Use a Llama 3 model without another context extension.",
        )
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )
