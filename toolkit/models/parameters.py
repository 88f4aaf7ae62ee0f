"""Parameters counted on the meta device: exact, without weights, and the same for a quantised base."""

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import ModelError, first_line
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM, LoraConfig, get_peft_model
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Lora

# nf4 with double quantisation, arXiv 2305.14314: 4 bits a weight, an 8-bit scale for each 64 of them,
# and a 32-bit one for each 256 of those scales.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters: `total` includes the adapter; tied weights count once.

    `quantizable` are the base's linear weights, without the head: those that 4-bit loading packs.
    """

    trainable: int
    total: int
    quantizable: int

    def weight_bytes(self, precision: Precision, *, load_in_4bit: bool) -> int:
        """Memory of the base's weights and of the adapter, which trains in float32."""
        return self.base_bytes(precision.dtype.itemsize, load_in_4bit=load_in_4bit) + 4 * self.trainable

    def base_bytes(self, dtype_bytes: int, *, load_in_4bit: bool) -> int:
        """Memory of the base's weights, `dtype_bytes` each where they are not packed."""
        packed = self.quantizable if load_in_4bit else 0
        return round((self.total - self.trainable - packed) * dtype_bytes + packed * _NF4_BYTES)

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({self.trainable / self.total:.4%})"


def model_config(folder: Path) -> Any:
    """Return the configuration of the model in `folder`: a copy, which a caller may change; the file is read once.

    Raises:
        ModelError: config.json cannot be read.
    """
    file = folder / "config.json"
    stat = file.stat() if file.is_file() else None  # a file that was edited since is read again
    return deepcopy(_read_config(folder, stat and (stat.st_mtime_ns, stat.st_size)))


@lru_cache(maxsize=8)
def _read_config(folder: Path, _version: tuple[int, int] | None) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged configuration breaks Transformers wherever it is read
        raise ModelError(f"{folder / 'config.json'} cannot be read: {first_line(error)}") from error


def count_parameters(folder: Path, lora: Lora) -> ParameterCount:
    """Count the parameters of the model in `folder` with the adapter of `lora`, reading only its config.json.

    Raises:
        ModelError: the configuration cannot be read, or the model lacks the adapter's target modules.
    """
    config = model_config(folder)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            head = model.get_output_embeddings()
            linear_weights = [
                module.weight
                for module in model.modules()
                if isinstance(module, torch.nn.Linear) and module is not head
            ]
            adapted = get_peft_model(model, _lora_config(lora))
        except Exception as error:  # a configuration breaks Transformers wherever it is read
            raise ModelError(f"{folder} cannot carry the recipe's adapter: {first_line(error)}") from error
    return count_adapted(adapted, quantizable=sum(weight.numel() for weight in linear_weights))


def count_adapted(model: Any, *, quantizable: int = 0) -> ParameterCount:
    """Count a model with its adapter; of a part that PEFT keeps beside its trained copy, the copy alone."""
    sizes = [
        (parameter.numel(), parameter.requires_grad)
        for name, parameter in model.named_parameters()
        if ".original_module." not in name
    ]
    return ParameterCount(
        trainable=sum(size for size, is_trained in sizes if is_trained),
        total=sum(size for size, _ in sizes),
        quantizable=quantizable,
    )


def _lora_config(lora: Lora) -> LoraConfig:
    return LoraConfig(r=lora.r, target_modules=list(lora.target_modules), use_dora=lora.use_dora, task_type="CAUSAL_LM")
