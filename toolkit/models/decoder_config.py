"""The configuration of a decoder: the fields that a GGUF file needs, and checks for what a GGUF file cannot express."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH

from toolkit.errors import ExportError, ModelError, UnsupportedModelError
from toolkit.models.attention import sliding_window
from toolkit.models.backend import MODEL_FOR_CAUSAL_LM_MAPPING
from toolkit.models.families import FAMILIES, Family
from toolkit.models.parameters import model_config

_GEMMA_27B_LAYERS = 62
"""The number of layers of Gemma 3 27B. llama.cpp recognizes it by them and scales its attention scores differently."""


@dataclass(frozen=True)
class Llama3Scaling:
    """The parameters of `rope_type: llama3`; lengths are in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class LinearScaling:
    """The parameter of `rope_type: linear`, which divides positions."""

    factor: float


@dataclass(frozen=True)
class DecoderConfig:
    """The configuration of a decoder, as far as a GGUF file contains it.

    Fields have their Hugging Face names, except:

    Args:
        family: The family of the model.
        has_head_dim: True if the configuration states the size of a head, false if it follows from other sizes.
        context_length: The longest context, in tokens, for which llama.cpp computes the same as the model.
        sliding_window: The window of the layers with sliding attention, or None if all layers attend to all tokens.
        sliding_rope_theta: The rotary base of these layers.
    """

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    has_head_dim: bool
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | LinearScaling | None
    sliding_window: int | None
    sliding_rope_theta: float | None
    tie_word_embeddings: bool

    def check_length(self, longest: int) -> None:
        """Check that llama.cpp can read a row of `longest` tokens.

        Raises:
            ExportError: If the row is longer than `context_length`.
        """
        if longest > self.context_length:
            raise ExportError(
                f"Rows have up to {longest} tokens, but llama.cpp does not slide the window of {self.family.name} "
                f"models, so it computes only the first {self.context_length} tokens of a row correctly.",
                hint=f"Set model.max_seq_length to {self.context_length} and train again, or use another model.",
            )


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
    """Return the configuration of a decoder's folder.

    Raises:
        ExportError: If the model belongs to no known family, has 4- or 8-bit weights, or computes something that
            llama.cpp does not compute for its family.
    """
    raw = read_json(folder / "config.json")
    architectures = raw.get("architectures") or ["a model without architecture"]
    family = FAMILIES.get(architectures[0])
    if family is None:
        known = ", ".join(family.name for family in FAMILIES.values())
        raise UnsupportedModelError(
            f"{folder} contains {', '.join(map(str, architectures))}, which belongs to none of the families that can "
            f"be exported to GGUF ({known})."
        )
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unknown method") if isinstance(quantization, dict) else quantization
        raise ExportError(
            f"The weights of {folder} are quantized ({method}), but GGUF needs 16- or 32-bit weights.",
            hint="Merge the adapter into the 16-bit base model and export that folder.",
        )
    try:
        # transformers knows the defaults of each architecture, and also reads the fields of its own older versions.
        config = model_config(folder)
    except ModelError as error:
        raise ExportError(f"{error}.", hint="Merge again, or copy the file again.") from error
    loaded = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if getattr(loaded, "__name__", None) != family.architecture:
        raise ExportError(
            f"{folder / 'config.json'} names {family.architecture}, but its model_type {config.model_type} is another "
            "architecture.",
            hint="Copy the file again from the model's source.",
        )
    try:
        if differences := list(_differences(config, family)):
            raise ExportError(
                f"{folder} has {', '.join(differences)}, which llama.cpp does not compute for {family.name}.",
                hint="Use a model without it. llama.cpp's own converter would write a file that answers differently.",
            )
        return _config(config, family)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ExportError(
            f"{folder / 'config.json'} has a missing or invalid value: {error}.", hint="Merge again."
        ) from error


def _config(config: Any, family: Family) -> DecoderConfig:
    rope, sliding_rope = _rope_parameters(config)
    window, positions = sliding_window(config), config.max_position_embeddings
    # llama.cpp slides the window for Gemma 3 only. For other families, its results differ beyond the window.
    is_sliding = family.gguf is MODEL_ARCH.GEMMA3
    has_head_dim = getattr(config, "head_dim", None) is not None
    return DecoderConfig(
        family=family,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim if has_head_dim else config.hidden_size // config.num_attention_heads,
        has_head_dim=has_head_dim,
        context_length=positions if is_sliding or window is None else min(window, positions),
        rms_norm_eps=float(config.rms_norm_eps),
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=_rope_scaling(rope),
        sliding_window=window if is_sliding else None,
        sliding_rope_theta=float(sliding_rope["rope_theta"]) if is_sliding else None,
        tie_word_embeddings=bool(config.tie_word_embeddings),
    )


def _differences(config: Any, family: Family) -> Iterator[str]:
    """Yield what the model computes differently from llama.cpp's model of the same family."""
    # Gemma 3's configuration has its own name for the activation.
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != family.activation:
        yield f"the activation {activation!r} instead of {family.activation!r}"
    # llama.cpp reads the factors of Llama 3's scaling for Llama only, and scales no layers with sliding attention.
    llama_3 = {"llama3"} if family.gguf is MODEL_ARCH.LLAMA else set()
    for rope, scalings in zip(_rope_parameters(config), ({"linear", *llama_3}, set()), strict=True):
        if (rope_type := rope.get("rope_type", "default")) not in {"default", *scalings}:
            yield f"the rotary scaling {rope_type!r}"
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            yield f"the partial_rotary_factor {rope['partial_rotary_factor']}"
    yield from sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    for field in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if value := getattr(config, field, None):
            yield f"{field} {value}"
    for field in () if family.gguf is MODEL_ARCH.LLAMA else ("attention_bias", "mlp_bias"):
        if getattr(config, field, False) and not (field == "attention_bias" and family.has_qkv_bias):
            yield field
    yield from _layer_differences(config, family)


def _layer_differences(config: Any, family: Family) -> Iterator[str]:
    """Yield differences from the sizes and layers that llama.cpp assumes for a family and that no metadata changes."""
    heads, layers = config.num_attention_heads, range(1, config.num_hidden_layers + 1)
    if family.gguf is MODEL_ARCH.QWEN2 and getattr(config, "head_dim", None) not in (None, config.hidden_size // heads):
        yield f"{heads} heads of size {config.head_dim} for a hidden_size of {config.hidden_size}"
    if family.gguf is MODEL_ARCH.SMOLLM3 and [int(layer % 4 > 0) for layer in layers] != config.no_rope_layers:
        yield "rotary embeddings in other layers than all but every fourth"
    if family.gguf is MODEL_ARCH.GEMMA3:
        pattern = ["sliding_attention" if layer % 6 else "full_attention" for layer in layers]
        if config.layer_types != pattern or not config.sliding_window:
            yield "sliding attention in other layers than all but every sixth"
        scale = config.hidden_size // heads if len(layers) == _GEMMA_27B_LAYERS else config.head_dim
        if config.query_pre_attn_scalar != scale:
            yield f"a query_pre_attn_scalar of {config.query_pre_attn_scalar} instead of {scale}"


def _rope_parameters(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rotary settings of layers with full and with sliding attention."""
    rope = config.rope_parameters
    return rope.get("full_attention", rope), rope.get("sliding_attention", {})


def _rope_scaling(rope: dict[str, Any]) -> Llama3Scaling | LinearScaling | None:
    rope_type = rope.get("rope_type", "default")
    if rope_type == "linear":
        return LinearScaling(float(rope["factor"]))
    if rope_type == "default":
        return None
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )
