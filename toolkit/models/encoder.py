"""An encoder with a classification head: its weights, its adapter, and the head that is trained beside it."""

from pathlib import Path
from typing import Any

import torch

from toolkit.errors import ModelError, RecipeError, ToolkitError, first_line
from toolkit.models.backend import DEVICE, AutoModelForSequenceClassification, LoraConfig, get_peft_model
from toolkit.models.loading import load_adapter
from toolkit.models.parameters import ParameterCount, count_adapted, model_config
from toolkit.models.precision import Precision
from toolkit.utils.memory_errors import memory_errors
from toolkit.recipe.schema import Lora, Recipe


def head_modules(model: Any) -> list[str]:
    """The parts that no pre-training has made, by name: all that a classification model has beside its encoder.

    BERT's pooler stands inside the encoder, but masked language models leave it without weights, so it counts as head.
    """
    encoder = model.base_model
    head = [
        name
        for name, module in model.named_children()
        if module is not encoder and any(True for _ in module.parameters())
    ]
    return [*head, "pooler"] if getattr(encoder, "pooler", None) is not None else head


def longest_input(model: Any) -> int | None:
    """Tokens that an encoder has positions for; None where positions are relative.

    RoBERTa's family counts positions from behind the padding token's id.
    """
    embedding = next((module for name, module in model.named_modules() if name.endswith("position_embeddings")), None)
    if not isinstance(embedding, torch.nn.Embedding):
        return None
    return embedding.num_embeddings - (0 if embedding.padding_idx is None else embedding.padding_idx + 1)


def count_encoder_parameters(folder: Path, recipe: Recipe) -> ParameterCount:
    """Count the parameters of the encoder in `folder` with head and adapter, reading only its config.json.

    Raises:
        ModelError: the folder holds no model that can carry a classification head.
        RecipeError: the encoder lacks a target module, or rows may be longer than it reads.
    """
    config = model_config(folder)
    config.num_labels = len(recipe.task.labels)
    with torch.device("meta"):
        try:
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        except Exception as error:  # a configuration breaks Transformers wherever it is read
            raise ModelError(f"{folder} holds no encoder: {first_line(error)}") from error
        _check_fit(model, recipe)
        adapted = get_peft_model(model, _lora_config(model, recipe.lora))
    return count_adapted(adapted)


def _check_fit(model: Any, recipe: Recipe) -> None:
    layers = {
        name.split(".")[-1] for name, module in model.base_model.named_modules() if type(module) is torch.nn.Linear
    }
    if unknown := [name for name in recipe.lora.target_modules if name not in layers]:
        raise RecipeError(
            f"lora.target_modules: {unknown[0]!r} is no layer of {recipe.model.name}; its linear layers are "
            f"{', '.join(sorted(layers))}.",
            hint="Name layers of this model; a decoder's recipe has model.kind: decoder.",
        )
    longest = longest_input(model)
    if longest is not None and recipe.model.max_seq_length > longest:
        raise RecipeError(
            f"model.max_seq_length {recipe.model.max_seq_length} is more than the {longest} tokens that "
            f"{recipe.model.name} reads.",
            hint=f"Set model.max_seq_length to {longest} or less.",
        )


def load_encoder(folder: Path, recipe: Recipe, precision: Precision) -> Any:
    """Load an encoder onto the device, its head drawn from the recipe's seed.

    Raises:
        DeviceMemoryError: it does not fit into memory.
        ModelError: the folder cannot be loaded, or lacks weights of the encoder itself, which would stay random.
    """
    torch.manual_seed(recipe.seed)
    try:
        with memory_errors(f"{folder} does not fit into the device's memory.", hint="Take a smaller encoder."):
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                num_labels=len(recipe.task.labels),
                dtype=precision.dtype,
                ignore_mismatched_sizes=True,  # a head for another number of labels is replaced
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
            model = model.to(DEVICE)
    except ToolkitError:
        raise
    except Exception as error:  # Transformers and safetensors each fail in their own way
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from error
    head = head_modules(model)
    newly_initialized = {*loading_info["missing_keys"], *(name for name, *_ in loading_info["mismatched_keys"])}
    missing = sorted(name for name in newly_initialized if not set(name.split(".")) & set(head))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the encoder's weights (first: {missing[0]}), which would stay random.",
            hint="Give a folder or hub id of a pre-trained encoder.",
        )
    return model


def attach_encoder_lora(model: Any, lora: Lora, *, seed: int) -> Any:
    """Add a new adapter and make the head trainable, both in float32, as mixed-precision training needs."""
    torch.manual_seed(seed)
    message = f"An adapter of rank {lora.r} does not fit into the device's memory beside the encoder."
    with memory_errors(message, hint="Lower lora.r, or name fewer lora.target_modules."):
        adapted = get_peft_model(model, _lora_config(model, lora))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def load_encoder_for_scoring(folder: Path, recipe: Recipe, precision: Precision, adapter: Path) -> Any:
    """An encoder with its trained adapter and head, in evaluation mode."""
    model = load_adapter(load_encoder(folder, recipe, precision), adapter)
    for name, parameter in model.named_parameters():
        if ".modules_to_save." in name or "lora_" in name:  # as they were trained and saved
            parameter.data = parameter.data.float()
    return model.eval()


def _lora_config(model: Any, lora: Lora) -> LoraConfig:
    return LoraConfig(
        task_type="SEQ_CLS",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=head_modules(model),
    )
