"""The GGUF file types: how each stores matrices, and who can make it."""

from dataclasses import dataclass

from gguf import GGMLQuantizationType, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES

from toolkit.recipe.schema import GgufType

_Q = GGMLQuantizationType
_WIDE_BITS = 8
HEADER_BYTES = 16_000_000
"""Of a GGUF file, at most: Llama 3's vocabulary and merges take 8 MB."""


def _quantized_bytes(quantization_type: GGMLQuantizationType, count: int) -> int:
    block_size, type_size = GGML_QUANT_SIZES[quantization_type]
    return count * type_size // block_size


@dataclass(frozen=True)
class FileType:
    """One file type.

    Args:
        number: its number in `general.file_type`.
        matrices: how matrices are stored; of a type that mixes several, the widest, so that sizes are upper bounds.
        embeddings: how the token embedding and the head are stored.
        needs_quantizer: whether only llama.cpp's own quantiser makes it.
    """

    number: LlamaFileType
    matrices: GGMLQuantizationType
    embeddings: GGMLQuantizationType
    needs_quantizer: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether a weight takes 8 bits or more: such a file is expected to answer as the model it was made from."""
        block_size, type_size = GGML_QUANT_SIZES[self.matrices]
        return 8 * type_size / block_size >= _WIDE_BITS

    def file_bytes(self, matrices: int, embeddings: int) -> int:
        """How large a file is, from its numbers of weights alone; of a type that mixes several, at most.

        Args:
            matrices: weights of the layers' matrices.
            embeddings: all others: the token embedding, the head where it has weights of its own, and the few norms.
        """
        counts = ((self.matrices, matrices), (self.embeddings, embeddings))
        return HEADER_BYTES + sum(_quantized_bytes(quantization_type, count) for quantization_type, count in counts)


FILE_TYPES: dict[GgufType, FileType] = {
    "f32": FileType(LlamaFileType.ALL_F32, _Q.F32, _Q.F32),
    "f16": FileType(LlamaFileType.MOSTLY_F16, _Q.F16, _Q.F16),
    "bf16": FileType(LlamaFileType.MOSTLY_BF16, _Q.BF16, _Q.BF16),
    "q8_0": FileType(LlamaFileType.MOSTLY_Q8_0, _Q.Q8_0, _Q.Q8_0),
    # Below 8 bits the embedding, which is the head too in small models, stays wider, as in llama.cpp's own mixtures.
    "q5_1": FileType(LlamaFileType.MOSTLY_Q5_1, _Q.Q5_1, _Q.Q8_0),
    "q5_0": FileType(LlamaFileType.MOSTLY_Q5_0, _Q.Q5_0, _Q.Q8_0),
    "q4_1": FileType(LlamaFileType.MOSTLY_Q4_1, _Q.Q4_1, _Q.Q8_0),
    "q4_0": FileType(LlamaFileType.MOSTLY_Q4_0, _Q.Q4_0, _Q.Q8_0),
    "mxfp4": FileType(LlamaFileType.MOSTLY_MXFP4_MOE, _Q.MXFP4, _Q.Q8_0),
    "tq2_0": FileType(LlamaFileType.MOSTLY_TQ2_0, _Q.TQ2_0, _Q.F16),
    "tq1_0": FileType(LlamaFileType.MOSTLY_TQ1_0, _Q.TQ1_0, _Q.F16),
    "q6_k": FileType(LlamaFileType.MOSTLY_Q6_K, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
    "q5_k_m": FileType(LlamaFileType.MOSTLY_Q5_K_M, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
    "q4_k_m": FileType(LlamaFileType.MOSTLY_Q4_K_M, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
}
