"""The families of decoders that the toolkit knows: what differs between them, in one table.

A family is one entry of `FAMILIES` and one row of the parametrized tests in tests/models/test_families.py.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from gguf import MODEL_ARCH

from toolkit.recipe.model_kind import DecoderTarget

LINEAR_LAYERS: tuple[str, ...] = get_args(DecoderTarget)
"""The linear layers of a decoder layer, the same in all families. An adapter can be added to each of them."""

RotaryPairing = Literal["halves", "neighbors"]


@dataclass(frozen=True)
class Family:
    """A family of decoders.

    Args:
        name: The name that people use, for messages and tables.
        architecture: The model class that config.json names.
        gguf: The architecture of its GGUF files, which names their tensors and metadata.
        rotary_pairing: The dimensions of a head that llama.cpp rotates together: i with i + head_dim / 2 (`halves`, as
            in transformers) or 2i with 2i + 1 (`neighbors`). The rows of queries and keys are reordered for the latter.
        activation: The activation of the MLP that llama.cpp computes.
        has_qkv_bias: True if queries, keys and values always have biases.
        norm_offset: The number that the model adds to the weights of its norms. In GGUF files it is already added.
        tree_problem: The reason why its attention cannot compute prefix trees, or None if it can.
        overflows_float16: True if its activations exceed the range of float16, so that training ends in NaN.
    """

    name: str
    architecture: str
    gguf: MODEL_ARCH
    rotary_pairing: RotaryPairing = "halves"
    activation: str = "silu"
    has_qkv_bias: bool = False
    norm_offset: float = 0.0
    tree_problem: str | None = None
    overflows_float16: bool = False


FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        # SmolLM2, CroissantLLM, TinyLlama, Lucie and many others are Llamas with other tokenizers.
        Family("Llama", "LlamaForCausalLM", MODEL_ARCH.LLAMA, rotary_pairing="neighbors"),
        Family("Mistral", "MistralForCausalLM", MODEL_ARCH.LLAMA, rotary_pairing="neighbors"),
        Family("Qwen2.5", "Qwen2ForCausalLM", MODEL_ARCH.QWEN2, has_qkv_bias=True),
        Family("Qwen3", "Qwen3ForCausalLM", MODEL_ARCH.QWEN3),
        Family("SmolLM3", "SmolLM3ForCausalLM", MODEL_ARCH.SMOLLM3, rotary_pairing="neighbors"),
        Family(
            "Gemma 3",
            "Gemma3ForCausalLM",
            MODEL_ARCH.GEMMA3,
            activation="gelu_pytorch_tanh",
            norm_offset=1.0,
            overflows_float16=True,
        ),
    )
}
"""The known families by the model class in config.json."""


def find_family(config: Any) -> Family | None:
    """Return the family of a transformers configuration, or None if it is not a known one."""
    return FAMILIES.get((config.architectures or [""])[0])
