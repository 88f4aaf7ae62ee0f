"""Properties of a model's attention on which prefix trees depend, read from its configuration."""

from typing import Any

from toolkit.models.families import find_family


def unwrap_peft(model: Any) -> Any:
    """Return the causal language model inside a PEFT wrapper, or the model itself if it has no wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_tree_problem(config: Any) -> str | None:
    """Return the reason why a model cannot compute prefix trees, or None if none is known from its configuration.

    Models of unknown families have to pass the comparison of a tree with separate rows before trees are used.
    """
    family, config = find_family(config), config.get_text_config()
    if family is not None and family.tree_problem is not None:
        return family.tree_problem
    # Gemma's newer configurations also have "vision", which concerns only images.
    if getattr(config, "use_bidirectional_attention", None) in (True, "all") or not getattr(config, "is_causal", True):
        return "the model's tokens attend to later tokens, so rows share no prefix that could be computed once"
    other_types = sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"})
    if other_types:
        return f"layers of the type {other_types[0]} do not follow the attention mask of a prefix tree"
    return None


def sliding_window(config: Any) -> int | None:
    """Return the length of the sliding window in tokens, including the current one, or None if no layer has one."""
    return _window(config) if "sliding_attention" in layer_types(config) else None


def layer_types(config: Any) -> list[str]:
    """Return the type of attention of each layer: full_attention or sliding_attention."""
    config = config.get_text_config()
    # Mistral and Phi-3 have the same window in all layers.
    default = "full_attention" if _window(config) is None else "sliding_attention"
    return list(getattr(config, "layer_types", None) or [default] * config.num_hidden_layers)


def _window(config: Any) -> int | None:
    return getattr(config.get_text_config(), "sliding_window", None)
