"""The linear layers of an encoder, and those that `lora.target_modules: auto` means."""

from typing import Any

import torch

from toolkit.errors import RecipeError
from toolkit.recipe.schema import LoraSection

_ATTENTION_LAYERS = (
    ("query", "value"),  # BERT, RoBERTa, CamemBERT, XLM-R, ELECTRA
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
    ("q_lin", "v_lin"),  # DistilBERT
    ("in_proj",),  # DeBERTa: queries, keys and values in one layer
    ("Wqkv",),  # ModernBERT: the same
)
"""The layers of queries and values, as in the LoRA paper (arXiv 2106.09685), by the names of each family."""


def linear_layers(encoder: torch.nn.Module) -> list[str]:
    """Return the names of an encoder's linear layers without the path to them, sorted."""
    names = (name for name, module in encoder.named_modules() if type(module) is torch.nn.Linear)
    return sorted({name.rpartition(".")[2] for name in names})


def resolve_targets(model: Any, lora: LoraSection) -> tuple[str, ...]:
    """Return the names of the linear layers of an encoder that get an adapter.

    Args:
        model: A sequence classification model. Layers of its head are trained in full and are not among the names.
        lora: The LoRA section of the recipe.

    Raises:
        RecipeError: If the encoder lacks one of the layers, or `auto` does not know the names of its attention layers.
    """
    layers, name = linear_layers(model.base_model), type(model.base_model).__name__
    if lora.target_modules == "auto":
        targets = next((targets for targets in _ATTENTION_LAYERS if set(targets) <= set(layers)), None)
        if targets is None:
            raise RecipeError(
                f"lora.target_modules: auto does not know the attention layers of {name}. Its linear layers are "
                f"{', '.join(layers)}.",
                hint="List the layers that get an adapter, usually those of queries and values.",
            )
        return targets
    if unknown := [target for target in lora.target_modules if target not in layers]:
        raise RecipeError(
            f"lora.target_modules: {unknown[0]!r} is not a layer of {name}. Its linear layers are {', '.join(layers)}.",
            hint="Set lora.target_modules: auto, or choose layers of this model.",
        )
    return lora.target_modules
