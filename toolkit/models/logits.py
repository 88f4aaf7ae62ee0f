"""The changes that some models make to the logits of their language-model head."""

from typing import Any

import torch


def finish_logits(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Scale or cap logits as a model does after its head, for callers that use the head alone.

    Args:
        logits: The output of the head.
        config: The configuration of the model.

    Returns:
        The model's logits. Most models do not change them.
    """
    config = config.get_text_config()
    if config.model_type.startswith("granite"):
        logits = logits / config.logits_scaling
    elif config.model_type.startswith("cohere"):
        logits = logits * config.logit_scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
