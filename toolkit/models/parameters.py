"""Exact parameter counts from config.json, on the meta device, so that no weights are loaded."""

from collections.abc import Set
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import ModelError, RecipeError, first_line
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM, LoraConfig, get_peft_model
from toolkit.models.families import LINEAR_LAYERS
from toolkit.models.precision import Precision
from toolkit.recipe.schema import LoraSection, Recipe

# Bytes per weight of NF4 with double quantization (arXiv 2305.14314): 4 bits per weight, an 8-bit scale per block of 64
# weights, and a 32-bit scale per 256 of these scales.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class ParameterCount:
    """The number of parameters of a model with an adapter; tied weights count once.

    Args:
        trainable: The number of parameters that are trained.
        total: The number of all parameters, including the adapter.
        quantizable: The number of weights that 4-bit loading quantizes: those of the base's linear layers, without the
            head.
        target_modules: The names of the linear layers with an adapter, sorted. Empty if all weights are trained.
    """

    trainable: int
    total: int
    quantizable: int
    target_modules: tuple[str, ...] = ()

    def weight_bytes(self, precision: Precision, *, load_in_4bit: bool) -> int:
        """Return the memory of the base's weights and the adapter, which is trained in float32."""
        return self.base_bytes(precision.dtype.itemsize, load_in_4bit=load_in_4bit) + 4 * self.trainable

    def base_bytes(self, dtype_bytes: int, *, load_in_4bit: bool) -> int:
        """Return the memory of the base's weights, with `dtype_bytes` per weight unless it is quantized."""
        packed = self.quantizable if load_in_4bit else 0
        return round((self.total - self.trainable - packed) * dtype_bytes + packed * _NF4_BYTES)

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({self.trainable / self.total:.4%})"


def model_config(folder: Path) -> Any:
    """Return a copy of a model's configuration, which the caller can modify.

    Raises:
        ModelError: If config.json cannot be read.
    """
    file = folder / "config.json"
    # The file's time and size are part of the cache key, so a file that was edited is read again.
    stat = file.stat() if file.is_file() else None
    return deepcopy(_read_config(folder, stat and (stat.st_mtime_ns, stat.st_size)))


@lru_cache(maxsize=8)
def _read_config(folder: Path, _version: tuple[int, int] | None) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged configuration can fail anywhere in transformers
        raise ModelError(f"{folder / 'config.json'} cannot be read: {first_line(error)}") from error


def check_max_seq_length(folder: Path, recipe: Recipe) -> None:
    """Check that a decoder has a position for each token of the longest row.

    Beyond `max_position_embeddings`, Unsloth would stretch the rotary embeddings, which the merged model and llama.cpp
    would not. A scaling in config.json is no exception: Unsloth replaces it. (Published configurations with a scaling
    count the additional positions in `max_position_embeddings`.)

    Raises:
        RecipeError: If model.max_seq_length is larger than the number of positions.
    """
    config = model_config(folder)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and recipe.model.max_seq_length > positions:
        raise RecipeError(
            f"model.max_seq_length is {recipe.model.max_seq_length}, but {recipe.model.name} has {positions} positions "
            "(max_position_embeddings in config.json).",
            hint=f"Set model.max_seq_length to {positions} or less.",
        )


def count_parameters(folder: Path, lora: LoraSection) -> ParameterCount:
    """Count the parameters of a decoder with an adapter from its config.json.

    Raises:
        ModelError: If the configuration cannot be read, or the model lacks the adapter's target modules.
    """
    config = model_config(folder)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:  # an invalid configuration can fail anywhere in transformers
            raise ModelError(
                f"No model can be built from {folder / 'config.json'}: {first_line(error)}.",
                hint="The file is damaged or was edited. Copy it again from the model's source.",
            ) from error
        try:
            head = model.get_output_embeddings()
            linear_layers = {
                name: module
                for name, module in model.named_modules()
                if isinstance(module, torch.nn.Linear) and module is not head
            }
            _check_targets(folder, lora, {name.split(".")[-1] for name in linear_layers})
            adapted = get_peft_model(model, _lora_config(lora))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"The recipe's adapter does not fit {folder}: {first_line(error)}") from error
    return count_adapted(adapted, quantizable=sum(layer.weight.numel() for layer in linear_layers.values()))


def _check_targets(folder: Path, lora: LoraSection, layers: Set[str]) -> None:
    # PEFT ignores names that do not exist as long as one does, and would silently train a part of the adapter.
    if missing := [name for name in lora.target_modules if name not in layers]:
        usable = [name for name in LINEAR_LAYERS if name in layers]
        raise ModelError(
            f"lora.target_modules: {missing[0]!r} is not a layer of {folder}. Its linear layers are "
            f"{', '.join(sorted(layers)) or 'of a type that adapters do not support'}.",
            hint=f"Set lora.target_modules: [{', '.join(usable)}]."
            if usable
            else "Use a model with separate projections for queries, keys and values, such as Llama or Qwen3.",
        )


def count_adapted(model: Any, *, quantizable: int = 0) -> ParameterCount:
    """Count the parameters of a model, which can have an adapter."""
    # PEFT keeps the original of each module in modules_to_save next to its trainable copy; only the copy is used.
    sizes = [
        (parameter.numel(), parameter.requires_grad)
        for name, parameter in model.named_parameters()
        if ".original_module." not in name
    ]
    adapter = getattr(model, "peft_config", {}).get("default")
    return ParameterCount(
        trainable=sum(size for size, is_trained in sizes if is_trained),
        total=sum(size for size, _ in sizes),
        quantizable=quantizable,
        target_modules=tuple(sorted(adapter.target_modules)) if adapter else (),
    )


def _lora_config(lora: LoraSection) -> LoraConfig:
    return LoraConfig(r=lora.r, target_modules=list(lora.target_modules), use_dora=lora.use_dora, task_type="CAUSAL_LM")
