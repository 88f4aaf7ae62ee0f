"""Base weights and adapter into memory, through Unsloth, and a check that they are what was asked for."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import ModelError, ToolkitError, first_line
from toolkit.models.backend import (
    DEVICE,
    FastLanguageModel,
    PeftModel,
    get_peft_model_state_dict,
    is_bfloat16_supported,
    quiet,
)
from toolkit.models.precision import Precision, choose_precision, cpu_has_amx
from toolkit.models.safety import check_weights_complete, check_adapter, weight_names
from toolkit.utils.memory_errors import memory_errors
from toolkit.recipe.schema import Lora, Recipe

_OUT_OF_MEMORY_HINT = "Set model.load_in_4bit: true, or take a smaller model."


def precision_for(recipe: Recipe, recorded: Precision | None = None) -> Precision:
    """Return the recipe's precision on this process's device.

    Args:
        recipe: whose `model.dtype` is resolved.
        recorded: what `auto` resolved to when the run was started; kept where this device can compute in it.

    Raises:
        ModelError: this device cannot compute in the recipe's type.
    """
    capabilities = {"has_bfloat16": is_bfloat16_supported(), "has_amx": cpu_has_amx()}
    if recorded is not None and recipe.model.dtype == "auto":
        with suppress(ModelError):  # another kind of device: the caller reports that
            choose_precision(recorded.name, DEVICE, **capabilities)
            return recorded
    return choose_precision(recipe.model.dtype, DEVICE, **capabilities)


def load_base(folder: Path, recipe: Recipe, precision: Precision, *, gradient_checkpointing: bool = False) -> Any:
    """Load base weights, in 4-bit when the recipe says so.

    Raises:
        DeviceMemoryError: it does not fit into memory.
        ModelError: the folder cannot be loaded, or something else was loaded than what the recipe asks for.
    """
    try:
        with memory_errors(f"{folder} does not fit into the device's memory.", hint=_OUT_OF_MEMORY_HINT), quiet():
            model, _ = FastLanguageModel.from_pretrained(
                model_name=str(folder),
                max_seq_length=recipe.model.max_seq_length,
                dtype=precision.dtype,
                load_in_4bit=recipe.model.load_in_4bit,
                use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
                use_exact_model_name=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except ToolkitError:
        raise
    except Exception as error:  # Unsloth, Transformers and safetensors each fail in their own way
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from error
    _check_loaded_as_configured(model, recipe, precision)
    check_weights_complete([name for name, _ in model.named_parameters()], weight_names(folder), folder)
    return model


def _check_loaded_as_configured(model: Any, recipe: Recipe, precision: Precision) -> None:
    is_4bit = any(type(module).__name__ == "Linear4bit" for module in model.modules())
    if is_4bit != recipe.model.load_in_4bit:
        expected, actual = ("4-bit", "16-bit or 32-bit") if recipe.model.load_in_4bit else ("no 4-bit", "4-bit")
        raise ModelError(
            f"model.load_in_4bit asks for {expected} weights, but {actual} ones were loaded.",
            hint="bitsandbytes packs only layers of at least 64 inputs; a pre-quantised folder is always 4-bit.",
        )
    dtype = model.get_input_embeddings().weight.dtype
    if dtype != precision.dtype:
        raise ModelError(f"model.dtype resolves to {precision.name}, but the model was loaded in {dtype}.")


def attach_lora(model: Any, lora: Lora, *, seed: int, gradient_checkpointing: bool) -> Any:
    """Add a new adapter, its A matrices drawn from `seed` and its B matrices zero.

    Raises:
        DeviceMemoryError: it does not fit into memory beside the model.
        ModelError: it does not fit the model.
    """
    message = f"An adapter of rank {lora.r} does not fit into the device's memory beside the model."
    try:
        with memory_errors(message, hint="Lower lora.r, or name fewer lora.target_modules."), quiet():
            return FastLanguageModel.get_peft_model(
                model,
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.target_modules),
                use_rslora=lora.use_rslora,
                use_dora=lora.use_dora,
                use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
                random_state=seed,
            )
    except ValueError as error:
        raise ModelError(f"The adapter does not fit the model: {error}") from error


def load_adapter(model: Any, adapter: Path) -> Any:
    """Put a trained adapter on a base model.

    Raises:
        ModelError: it was not trained on a model of this shape.
    """
    mismatch = "was not trained on this base model"
    hint = "Use the model.name and model.revision that the run's recipe.yaml names."
    check_adapter(adapter)
    try:
        with memory_errors(
            f"{adapter} does not fit into the device's memory beside its base.", hint=_OUT_OF_MEMORY_HINT
        ):
            adapted = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    except ToolkitError:  # some are a RuntimeError too
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, SafetensorError) as error:
        raise ModelError(f"The adapter {adapter} {mismatch}: {first_line(error)}", hint=hint) from error
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as saved_tensors:
        # Left to itself, PEFT asks the hub whether the vocabulary has grown.
        missing = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) ^ set(saved_tensors.keys())
    if missing:
        raise ModelError(f"The adapter {adapter} {mismatch}: {len(missing)} tensors differ by name.", hint=hint)
    return adapted


def load_for_scoring(folder: Path, recipe: Recipe, precision: Precision, adapter: Path | None) -> Any:
    """A model in evaluation mode: the base alone, or with an adapter."""
    model = load_base(folder, recipe, precision)
    if adapter is not None:
        model = load_adapter(model, adapter)
    return model.eval()
