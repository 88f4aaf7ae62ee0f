"""Merging of an adapter into its base model."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from toolkit.errors import ModelError, ToolkitError, first_line
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import load_adapter
from toolkit.models.model_support import is_quantized
from toolkit.models.parameters import model_config
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.section import GgufType
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.memory_errors import memory_errors

_OUT_OF_MEMORY_HINT = "Export on a machine with more memory. The run folder can be copied there."
_GGUF_NAMES: dict[torch.dtype, GgufType] = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


def merge_adapter(base: Path, adapter: Path, destination: Path) -> None:
    """Write base + adapter as safetensors in the base's data type, with the adapter's tokenizer.

    The sum is computed in float32 and rounded once, with a relative error of at most 2^-8 in bfloat16 and 2^-11 in
    float16.

    Args:
        base: The folder of the unquantized base model, even if the adapter was trained on 4-bit weights.
        adapter: The adapter's folder.
        destination: The folder to write.

    Raises:
        DeviceMemoryError: If the base in float32 does not fit into memory.
        ModelError: If the adapter does not fit the base, or the base is quantized.
    """
    check_mergeable(base)
    config = model_config(base)
    try:
        with memory_errors(
            f"{base} does not fit into memory in float32, which merging needs.", hint=_OUT_OF_MEMORY_HINT
        ):
            model = AutoModelForCausalLM.from_pretrained(
                base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    except ToolkitError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{base} cannot be loaded: {first_line(error)}") from error
    merged = load_adapter(model, adapter).merge_and_unload(safe_merge=True).to(_merged_dtype(config))
    with atomic_path(destination) as partial:
        merged.save_pretrained(partial)
        load_tokenizer(adapter).save_pretrained(partial)


def check_mergeable(base: Path) -> None:
    """Check that a base model is not quantized: merging into 4-bit weights would change the answers (peft#2321).

    Raises:
        ModelError: If it is quantized.
    """
    if is_quantized(base):
        raise ModelError(
            f"The base model {base} is quantized, but an adapter can only be merged into unquantized weights.",
            hint="Train on the 16-bit model with model.load_in_4bit: true, which quantizes it when it is loaded.",
        )


def merged_type(config: Any) -> GgufType:
    """Return the GGUF file type that stores a merged model's weights unchanged: f16, bf16 or f32."""
    return _GGUF_NAMES[_merged_dtype(config)]


def _merged_dtype(config: Any) -> torch.dtype:
    return config.dtype if config.dtype in _GGUF_NAMES else torch.float32
