"""Encoders with a classification head: loading them, and training a LoRA adapter and the head, or all weights."""

from inspect import signature
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import ModelError, RecipeError, ToolkitError, first_line
from toolkit.models.backend import (
    DEVICE,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    LoraConfig,
    get_peft_model,
)
from toolkit.models.encoder_head import output_layer, plan_head, start_head
from toolkit.models.loading import load_adapter
from toolkit.models.lora_targets import resolve_targets
from toolkit.models.parameters import ParameterCount, count_adapted, model_config
from toolkit.models.precision import Precision
from toolkit.models.safety import check_model_folder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import LoraSection, Recipe
from toolkit.utils.memory_errors import memory_errors


def head_modules(model: Any) -> list[str]:
    """Return the names of the modules that are not pre-trained: all of a classifier's modules except its encoder."""
    encoder = model.base_model
    head = [
        name
        for name, module in model.named_children()
        if module is not encoder and any(True for _ in module.parameters())
    ]
    # BERT's pooler is inside the encoder, but checkpoints from masked language modeling have no weights for it.
    return [*head, "pooler"] if getattr(encoder, "pooler", None) is not None else head


def max_input_length(model: Any) -> int | None:
    """Return the number of tokens that an encoder has positions for, or None if positions are relative."""
    modules = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    embedding = modules.get("position_embeddings")
    if not isinstance(embedding, torch.nn.Embedding):
        # Rotary embeddings, as in ModernBERT, can be computed for any position, but were trained only up to this one.
        return model.config.max_position_embeddings if "rotary_emb" in modules else None
    # RoBERTa and its relatives number positions from padding_idx + 1, so the embeddings up to it are never used.
    return embedding.num_embeddings - (0 if embedding.padding_idx is None else embedding.padding_idx + 1)


def load_encoder_tokenizer(folder: Path, model: Path) -> Any:
    """Load the tokenizer of an encoder, without token_type_ids if the model has no such input.

    BERT's tokenizer, which DistilBERT also uses, returns them for any model. The names of its outputs are saved with
    it, so the trained model works with plain transformers.

    Args:
        folder: The folder of the tokenizer.
        model: The folder of the model.

    Raises:
        ModelError: If a folder has no readable tokenizer or configuration.
    """
    tokenizer, config = load_tokenizer(folder), model_config(model)
    model_class: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if model_class and "token_type_ids" not in signature(model_class.forward).parameters:
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    return tokenizer


def count_encoder_parameters(folder: Path, recipe: Recipe) -> ParameterCount:
    """Count the parameters of an encoder with head and adapter, if it gets one, from its config.json.

    Raises:
        ModelError: If the model does not support a classification head.
        RecipeError: If the encoder lacks a target module, or its maximum input length is below model.max_seq_length.
    """
    config = model_config(folder)
    config.num_labels = len(recipe.task.labels)
    with torch.device("meta"):
        try:
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        except Exception as error:  # an invalid configuration can fail anywhere in transformers
            raise ModelError(f"{folder} is not an encoder: {first_line(error)}") from error
        _check_length(model, recipe)
        if recipe.lora is not None:
            model = get_peft_model(model, _lora_config(model, recipe.lora))
    return count_adapted(model)


def _check_length(model: Any, recipe: Recipe) -> None:
    longest = max_input_length(model)
    if longest is not None and recipe.model.max_seq_length > longest:
        raise RecipeError(
            f"model.max_seq_length is {recipe.model.max_seq_length}, but {recipe.model.name} accepts at most "
            f"{longest} tokens.",
            hint=f"Set model.max_seq_length to {longest} or less.",
        )


def load_encoder(folder: Path, recipe: Recipe, precision: Precision) -> Any:
    """Load an encoder onto the device, with a head for the recipe's labels. All its weights can be trained.

    The head is new, initialized from the recipe's seed, unless the checkpoint has one for these labels (`plan_head`).

    Raises:
        DeviceMemoryError: If it does not fit into memory.
        ModelError: If the folder cannot be loaded or lacks weights of the encoder, which would stay random.
    """
    torch.manual_seed(recipe.seed)
    labels = len(recipe.task.labels)
    # Weights that are trained must be in float32: in 16 bits, most updates are smaller than half a rounding step.
    model, newly_initialized = _load(folder, labels, torch.float32 if recipe.lora is None else precision.dtype)
    name, _ = output_layer(model, labels)
    if f"{name}.weight" not in newly_initialized:
        start_head(model, plan_head(model_config(folder), recipe.task.labels), labels)
    # Transformers initializes missing weights at random and only logs it. That is expected for the head only.
    head = head_modules(model)
    missing = sorted(name for name in newly_initialized if not set(name.split(".")) & set(head))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the encoder's weights (first: {missing[0]}), which would stay random.",
            hint="Set model.name to the folder or Hub id of a pre-trained encoder.",
        )
    return model


def _load(folder: Path, labels: int, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """Return a sequence classification model on the device, and the names of its weights that the folder lacks."""
    try:
        with memory_errors(f"{folder} does not fit into the device's memory.", hint="Use a smaller encoder."):
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=labels,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # a head for another number of labels is replaced
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
            mismatched = (name for name, *_ in loading_info["mismatched_keys"])
            return model.to(DEVICE), {*loading_info["missing_keys"], *mismatched}
    except ToolkitError:
        raise
    except Exception as error:  # transformers and safetensors raise errors of many types
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from error


def attach_encoder_lora(model: Any, lora: LoraSection, *, seed: int) -> Any:
    """Add a new adapter and make the head trainable, both in float32, as mixed-precision training needs."""
    torch.manual_seed(seed)
    message = f"An adapter of rank {lora.r} does not fit into the device's memory in addition to the encoder."
    with memory_errors(message, hint="Lower lora.r, or choose fewer lora.target_modules."):
        adapted = get_peft_model(model, _lora_config(model, lora))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def load_trained_encoder(folder: Path, labels: int) -> Any:
    """Load an encoder all of whose weights were trained, in evaluation mode and in float32.

    Raises:
        DeviceMemoryError: If it does not fit into memory.
        ModelError: If the folder cannot be loaded, or lacks weights.
    """
    model, missing = _load(check_model_folder(folder), labels, torch.float32)
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the model's weights (first: {min(missing)}).",
            hint="Its model.safetensors and config.json belong to different models. Copy both again.",
        )
    return model.eval()


def load_encoder_for_scoring(folder: Path, recipe: Recipe, precision: Precision, adapter: Path) -> Any:
    """Load an encoder with its trained adapter and head, in evaluation mode."""
    model = load_adapter(load_encoder(folder, recipe, precision), adapter)
    for name, parameter in model.named_parameters():
        if ".modules_to_save." in name or "lora_" in name:  # the precision in which they were trained and saved
            parameter.data = parameter.data.float()
    return model.eval()


def _lora_config(model: Any, lora: LoraSection) -> LoraConfig:
    return LoraConfig(
        task_type="SEQ_CLS",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(resolve_targets(model, lora)),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=head_modules(model),
    )
