"""Loading of base models and adapters through Unsloth, with checks that the result is what the recipe asks for."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import ModelError, ToolkitError, first_line
from toolkit.models.adapter_checks import check_adapter
from toolkit.models.backend import (
    DEVICE,
    FastLanguageModel,
    PeftModel,
    get_peft_model_state_dict,
    is_bfloat16_supported,
    keep_float32,
    quiet,
)
from toolkit.models.families import find_family
from toolkit.models.parameters import check_max_seq_length, model_config
from toolkit.models.precision import Precision, choose_precision, cpu_has_bfloat16_units
from toolkit.models.safety import check_weights_complete, weight_names
from toolkit.recipe.schema import LoraSection, Recipe
from toolkit.utils.memory_errors import memory_errors

_OUT_OF_MEMORY_HINT = "Set model.load_in_4bit: true, or use a smaller model."


def resolve_precision(recipe: Recipe, folder: Path, recorded: Precision | None = None) -> Precision:
    """Resolve the recipe's `model.dtype` for the device of this process.

    Args:
        recipe: The recipe.
        folder: The folder of the base model. Its family can exclude float16.
        recorded: The precision that `auto` resolved to when the run was started. It is kept if this device supports it.

    Raises:
        ModelError: If this device or the model does not support the recipe's data type.
    """
    family = find_family(model_config(folder))
    capabilities: dict[str, Any] = {
        "has_bfloat16": is_bfloat16_supported(),
        "has_bfloat16_units": cpu_has_bfloat16_units(),
        "overflowing_family": family.name if family and family.overflows_float16 else None,
    }
    if recorded is not None and recipe.model.dtype == "auto":
        with suppress(ModelError):  # not supported on this device: the caller reports the difference
            choose_precision(recorded.name, DEVICE, **capabilities)
            return recorded
    return choose_precision(recipe.model.dtype, DEVICE, **capabilities)


def load_base(folder: Path, recipe: Recipe, precision: Precision, *, gradient_checkpointing: bool = False) -> Any:
    """Load a base model, quantized to 4 bits if the recipe asks for it.

    Raises:
        DeviceMemoryError: If it does not fit into memory.
        ModelError: If the folder cannot be loaded, or the loaded model is not what the recipe asks for.
        RecipeError: If model.max_seq_length is larger than the model's number of positions.
    """
    check_max_seq_length(folder, recipe)  # an evaluation can override it
    try:
        with (
            memory_errors(f"{folder} does not fit into the device's memory.", hint=_OUT_OF_MEMORY_HINT),
            keep_float32(precision.name == "float32"),
            quiet(),
        ):
            model, _ = FastLanguageModel.from_pretrained(
                model_name=str(folder),
                max_seq_length=recipe.model.max_seq_length,
                dtype=precision.dtype,
                load_in_4bit=recipe.model.load_in_4bit,
                use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
                use_exact_model_name=True,  # Unsloth would otherwise map some names to other repositories
                trust_remote_code=False,
                local_files_only=True,
            )
    except ToolkitError:
        raise
    except Exception as error:  # Unsloth, transformers and safetensors raise errors of many types
        # The details are in a table that transformers only logs.
        is_mismatch = "ignore_mismatched_sizes" in str(error)
        reason = "its weights have other shapes than config.json implies" if is_mismatch else first_line(error)
        raise ModelError(f"{folder} cannot be loaded: {reason}") from error
    _check_loaded_as_configured(model, recipe, precision)
    check_weights_complete([name for name, _ in model.named_parameters()], weight_names(folder), folder)
    return model


def _check_loaded_as_configured(model: Any, recipe: Recipe, precision: Precision) -> None:
    # Unsloth's CPU loader falls back to 16-bit weights if 4-bit loading fails, with only a printed line.
    is_4bit = any(type(module).__name__ == "Linear4bit" for module in model.modules())
    if is_4bit != recipe.model.load_in_4bit:
        expected, actual = ("4-bit", "16-bit or 32-bit") if recipe.model.load_in_4bit else ("unquantized", "4-bit")
        raise ModelError(
            f"model.load_in_4bit asks for {expected} weights, but the loaded weights are {actual}.",
            hint="bitsandbytes quantizes only layers with at least 64 inputs. A pre-quantized model is always 4-bit.",
        )
    dtype = model.get_input_embeddings().weight.dtype
    if dtype != precision.dtype:
        raise ModelError(f"model.dtype resolves to {precision.name}, but the model was loaded in {dtype}.")


def attach_lora(model: Any, lora: LoraSection, *, seed: int, gradient_checkpointing: bool) -> Any:
    """Add a new adapter. Its A matrices are drawn from `seed`, its B matrices are zero.

    Raises:
        DeviceMemoryError: If it does not fit into memory in addition to the model.
        ModelError: If it does not fit the model.
    """
    message = f"An adapter of rank {lora.r} does not fit into the device's memory in addition to the model."
    try:
        with memory_errors(message, hint="Lower lora.r, or choose fewer lora.target_modules."), quiet():
            adapted = FastLanguageModel.get_peft_model(
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
    # On a GPU, Unsloth replaces some families' target modules with a regular expression, and adds a field nobody reads.
    config = adapted.peft_config["default"]
    config.auto_mapping, config.target_modules = None, set(lora.target_modules)
    return adapted


def load_adapter(model: Any, adapter: Path) -> Any:
    """Attach a trained adapter to a base model.

    Raises:
        DeviceMemoryError: If it does not fit into memory in addition to the base model.
        ModelError: If it was not trained on a model of this shape, or is damaged.
    """
    mismatch = "was not trained on this base model"
    hint = "Use the model.name and model.revision from the run's recipe.yaml."
    check_adapter(adapter)
    try:
        with memory_errors(
            f"{adapter} does not fit into the device's memory in addition to its base.", hint=_OUT_OF_MEMORY_HINT
        ):
            adapted = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
    except ToolkitError:  # some of them are also RuntimeErrors, which the next clause would catch
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, SafetensorError) as error:
        # PyTorch lists the tensors whose shapes differ below a heading.
        reason = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), first_line(error))
        raise ModelError(f"The adapter {adapter} {mismatch}: {reason}", hint=hint) from error
    # PEFT only warns about tensors that are missing from the file, which would keep their initial values.
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as saved_tensors:
        # With save_embedding_layers="auto", PEFT asks the Hub whether the base's vocabulary was resized.
        unmatched = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) ^ set(saved_tensors.keys())
    if unmatched:
        raise ModelError(f"The adapter {adapter} {mismatch}: {len(unmatched)} tensors do not match.", hint=hint)
    return adapted


def load_for_scoring(folder: Path, recipe: Recipe, precision: Precision, adapter: Path | None) -> Any:
    """Load a base model in evaluation mode, with an adapter if one is given."""
    model = load_base(folder, recipe, precision)
    if adapter is not None:
        model = load_adapter(model, adapter)
    return model.eval()
