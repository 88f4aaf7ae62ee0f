"""Small models with random weights in the shape of each decoder family, made from configurations alone."""

from pathlib import Path
from typing import Any

import torch

from toolkit.embedded import MODEL_FOLDER
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM
from toolkit.prompts.tokenizer import load_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA_3_ROPE: dict[str, Any] = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 32, "rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1,
                "hidden_size": 96, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    # CroissantLLM: as many heads for keys as for queries, and a head of its own.
    "croissant": {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "head_dim": 32, "sliding_window": None, "tie_word_embeddings": False},
    "qwen2.5": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    # Every fourth layer has no rotary embeddings. llama.cpp knows only this interval.
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4, "tie_word_embeddings": True},
    # Every sixth layer attends to the full context (llama.cpp knows only this pattern), the others to 16 tokens.
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 6, "num_key_value_heads": 1, "head_dim": 32,
               "query_pre_attn_scalar": 32, "sliding_window": 16, "rope_parameters": GEMMA_ROPE,
               "tie_word_embeddings": True},
}  # fmt: skip
"""The features of each family that matter, in the smallest shape that has them. Keys are fields of config.json."""


def stand_in_config(shape: str, **overrides: Any) -> Any:
    """Return the transformers configuration of one of `SHAPES` with other values for some of its fields."""
    fields = SIZES | SHAPES[shape] | overrides
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def write_stand_in(
    shape: str,
    folder: Path,
    *,
    tokenizer_from: Path = MODEL_FOLDER,
    dtype: torch.dtype = torch.bfloat16,
    std: float = 0.1,
    **overrides: Any,
) -> Path:
    """Write a model folder with random weights and an existing tokenizer, the same bytes each time.

    Args:
        shape: A key of `SHAPES`.
        folder: The folder to write. Its parents must exist.
        tokenizer_from: A folder with a tokenizer. The model gets an embedding for each of its tokens.
        dtype: The type of the stored weights.
        std: The standard deviation of matrices, large enough by default that attention matters.
        overrides: Fields of config.json that differ from the shape.

    Returns:
        `folder`.
    """
    tokenizer = load_tokenizer(tokenizer_from)
    token_ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # Qwen's embeddings have more rows than its tokenizers have tokens.
    rows = len(tokenizer) + (64 if shape.startswith("qwen") else 0)
    config = stand_in_config(shape, **{"vocab_size": rows, **token_ids, **overrides})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        # Norms vary around 1: Gemma adds 1 to the weights of its norms, others multiply with them.
        mean = 1.0 if name.endswith("norm.weight") and config.model_type != "gemma3_text" else 0.0
        torch.nn.init.normal_(parameter, mean, std, generator=generator)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
