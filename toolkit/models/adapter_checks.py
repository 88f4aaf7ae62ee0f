"""Checks of an adapter's folder before PEFT reads it: its kind, its values, and damage of its files."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import ModelError, first_line
from toolkit.models.safety import NO_PICKLE, check_no_code, read_object, shortened

_LARGEST_RANK = 100_000


def is_number(value: object) -> bool:
    """Return whether a value from JSON is a number that is neither NaN nor absurdly large."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10**9  # false for NaN


def _is_names(value: object) -> bool:
    # PEFT also takes a string, as a regular expression, which can take forever to match.
    return isinstance(value, list) and all(isinstance(name, str) and _MODULE_NAME.fullmatch(name) for name in value)


def _is_auto_mapping(value: object) -> bool:
    # On a GPU, Unsloth records the class of the base model, as PEFT does for adapters without a task type.
    return value is None or (
        isinstance(value, dict)
        and value.keys() <= {"base_model_class", "parent_library", "unsloth_fixed"}
        and str(value.get("parent_library")).startswith("transformers.models.")
    )


_MODULE_NAME = re.compile(r"[\w.]{1,200}")
_ADAPTER_VALUES: dict[str, Callable[[Any], bool]] = {
    "peft_type": lambda value: value == "LORA",
    "task_type": lambda value: value in ("CAUSAL_LM", "SEQ_CLS"),
    "r": lambda value: type(value) is int and 1 <= value <= _LARGEST_RANK,
    "lora_alpha": lambda value: is_number(value) and value > 0,
    "lora_dropout": lambda value: is_number(value) and 0 <= value < 1,
    "target_modules": lambda value: _is_names(value) and bool(value),
    "modules_to_save": lambda value: value is None or _is_names(value),
    "use_rslora": lambda value: isinstance(value, bool),
    "use_dora": lambda value: isinstance(value, bool),
    "bias": lambda value: value == "none",
    # Other initializations, such as pissa, change the base weights when an adapter is loaded.
    "init_lora_weights": lambda value: value in (True, False, "gaussian"),
    "auto_mapping": _is_auto_mapping,
}
"""The options of adapters that the toolkit trains, and their possible values. All others must be empty."""

_REQUIRED_ADAPTER_KEYS = ("peft_type", "r", "lora_alpha", "target_modules")
_FLOAT_DTYPES = ("F16", "BF16", "F32")
LORA_MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")
_ADAPTER_HINT = "Copy the file again, or train again."
_TWO_ADAPTERS_HINT = "The two files belong to different adapters. Copy both again."
# A path, versions, and options of kinds of LoRA that other keys turn on.
_HARMLESS_ADAPTER_KEYS = (
    "base_model_name_or_path", "revision", "peft_version", "inference_mode", "megatron_core", "qalora_group_size",
)  # fmt: skip


def check_adapter(adapter: Path) -> None:
    """Check that an adapter's folder has intact safetensors weights, a configuration for them, and no custom code.

    Raises:
        ModelError: If it does not, or if the adapter is of a kind that the toolkit does not train.
    """
    weights, config_file = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    check_weights_exist(adapter)
    check_no_code(config_file)
    config = read_object(config_file)
    _check_adapter_config(config, config_file)
    check_adapter_weights(weights, config)
    check_no_code(adapter / "tokenizer_config.json")


def check_weights_exist(adapter: Path) -> None:
    """Check that an adapter has safetensors weights.

    Raises:
        ModelError: If it has not.
    """
    if not (weights := adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter {adapter} has no {weights.name}; {NO_PICKLE}.",
            hint="Train again, or save the adapter again with PEFT's save_pretrained, which writes safetensors.",
        )


def _check_adapter_config(config: Mapping[str, Any], path: Path) -> None:
    """Check that an adapter is a LoRA with the options that a recipe has, and that their values are possible."""
    for key, value in config.items():
        # Options of other kinds of LoRA are empty here. Some kinds change the base weights when they are loaded, apply
        # the adapter to a part of the tokens only, or cannot be merged.
        if key not in _ADAPTER_VALUES and value not in (None, False, "", [], {}) and key not in _HARMLESS_ADAPTER_KEYS:
            raise ModelError(
                f"{path} sets {key} to {shortened(value)}, but only adapters of the kind that the toolkit trains can "
                "be used.",
                hint="Train a LoRA adapter with the toolkit. If the file was edited, copy it again.",
            )
    for key, is_valid in _ADAPTER_VALUES.items():
        if key in config and not is_valid(config[key]):
            raise ModelError(
                f"{path} has an invalid value for {key}: {shortened(config[key])}.",
                hint="The file is damaged or was edited. Copy it again.",
            )
    if missing := [key for key in _REQUIRED_ADAPTER_KEYS if key not in config]:
        raise ModelError(f"{path} has no {missing[0]}.", hint="The file is damaged. Copy it again.")
    if config.get("modules_to_save") and config.get("task_type") != "SEQ_CLS":
        raise ModelError(
            f"{path} has modules_to_save, but only encoders save modules in addition to their adapter.",
            hint="Train a LoRA adapter with the toolkit. If the file was edited, copy it again.",
        )


def check_adapter_weights(path: Path, config: Mapping[str, Any]) -> None:
    """Check that an adapter's file is intact and complete, and has the layers and the rank of its configuration."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}.", hint=_ADAPTER_HINT) from error
    # For each layer, the shapes of its matrices A [r, inputs] and B [outputs, r].
    shapes: dict[str, dict[str, list[int]]] = {}
    for name, tensor in slices.items():
        if tensor.get_dtype() not in _FLOAT_DTYPES:
            raise ModelError(f"{path} is damaged: {name} is stored as {tensor.get_dtype()}.", hint=_ADAPTER_HINT)
        if match := LORA_MATRIX.fullmatch(name):
            shapes.setdefault(match["layer"], {})[match["matrix"]] = tensor.get_shape()
    if not shapes:
        raise ModelError(f"{path} contains no LoRA weights.", hint=_ADAPTER_HINT)
    for layer, matrices in shapes.items():
        if len(matrices) < 2 or any(len(shape) != 2 for shape in matrices.values()):
            raise ModelError(f"{path} is damaged: {layer} does not have two LoRA matrices.", hint=_ADAPTER_HINT)
        if (rank := matrices["A"][0]) != config["r"] or matrices["B"][1] != rank:
            raise ModelError(
                f"{layer} in {path} has rank {rank} and {matrices['B'][1]}, but r is {config['r']} in "
                "adapter_config.json.",
                hint=_TWO_ADAPTERS_HINT,
            )
    # PEFT ignores tensors of other layers. Layers without tensors are found when the adapter is loaded.
    # Adapters of other tools can have a regular expression here, which is not matched.
    targets = config.get("target_modules")
    known = {str(name).split(".")[-1] for name in targets} if isinstance(targets, list) else None
    if known is not None and (other := {layer.split(".")[-1] for layer in shapes} - known):
        raise ModelError(
            f"{path} adapts {min(other)}, which is not one of target_modules in adapter_config.json.",
            hint=_TWO_ADAPTERS_HINT,
        )
    if any("lora_magnitude_vector" in name for name in slices) != config.get("use_dora", False):
        raise ModelError(
            f"use_dora in adapter_config.json is {config.get('use_dora', False)}, which does not fit {path}.",
            hint=_TWO_ADAPTERS_HINT,
        )
