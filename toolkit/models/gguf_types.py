"""The GGUF file types: how each stores its weights, and whether it needs llama.cpp's quantizer."""

from dataclasses import dataclass

from gguf import GGMLQuantizationType, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES

from toolkit.recipe.section import GgufType

_Q = GGMLQuantizationType
_MIN_BITS = 8
HEADER_BYTES = 16_000_000
"""An upper bound for the header of a GGUF file. Llama 3's vocabulary and merges, which it contains, take 8 MB."""


def _quantized_bytes(quantization_type: GGMLQuantizationType, count: int) -> int:
    block_size, type_size = GGML_QUANT_SIZES[quantization_type]
    return count * type_size // block_size


@dataclass(frozen=True)
class FileType:
    """A GGUF file type.

    Args:
        number: Its value in the metadata field `general.file_type`.
        matrices: The type of the layers' matrices. If a file type mixes several, this is the widest, so that computed
            sizes are upper bounds.
        embeddings: The type of the token embedding and the language-model head.
        needs_quantizer: True if only llama.cpp's quantizer can write it.
    """

    number: LlamaFileType
    matrices: GGMLQuantizationType
    embeddings: GGMLQuantizationType
    needs_quantizer: bool = False

    @property
    def is_at_least_8_bit(self) -> bool:
        """True if a weight takes 8 bits or more. Such a file should give the same answers as the original model."""
        block_size, type_size = GGML_QUANT_SIZES[self.matrices]
        return 8 * type_size / block_size >= _MIN_BITS

    def file_bytes(self, matrices: int, embeddings: int) -> int:
        """Compute an upper bound for the size of a file from its weight counts.

        Args:
            matrices: The number of weights in the layers' matrices.
            embeddings: The number of all other weights: the token embedding, the head if it is not tied to it, and the
                norms, which are small.
        """
        counts = ((self.matrices, matrices), (self.embeddings, embeddings))
        return HEADER_BYTES + sum(_quantized_bytes(quantization_type, count) for quantization_type, count in counts)

    def largest_file_bytes(self, weights: int) -> int:
        """Compute an upper bound for the size of a file whose weights can be in matrices or embeddings."""
        return max(self.file_bytes(weights, 0), self.file_bytes(0, weights))


FILE_TYPES: dict[GgufType, FileType] = {
    "f32": FileType(LlamaFileType.ALL_F32, _Q.F32, _Q.F32),
    "f16": FileType(LlamaFileType.MOSTLY_F16, _Q.F16, _Q.F16),
    "bf16": FileType(LlamaFileType.MOSTLY_BF16, _Q.BF16, _Q.BF16),
    "q8_0": FileType(LlamaFileType.MOSTLY_Q8_0, _Q.Q8_0, _Q.Q8_0),
    # Below 8 bits, the embedding keeps a wider type, as in llama.cpp's own mixtures. In small models, which tie their
    # weights, it is also the head.
    "q5_1": FileType(LlamaFileType.MOSTLY_Q5_1, _Q.Q5_1, _Q.Q8_0),
    "q5_0": FileType(LlamaFileType.MOSTLY_Q5_0, _Q.Q5_0, _Q.Q8_0),
    "q4_1": FileType(LlamaFileType.MOSTLY_Q4_1, _Q.Q4_1, _Q.Q8_0),
    "q4_0": FileType(LlamaFileType.MOSTLY_Q4_0, _Q.Q4_0, _Q.Q8_0),
    "mxfp4": FileType(LlamaFileType.MOSTLY_MXFP4_MOE, _Q.MXFP4, _Q.Q8_0),
    "tq2_0": FileType(LlamaFileType.MOSTLY_TQ2_0, _Q.TQ2_0, _Q.F16),
    "tq1_0": FileType(LlamaFileType.MOSTLY_TQ1_0, _Q.TQ1_0, _Q.F16),
    # q5_k_m and q4_k_m are mixtures whose widest type is Q6_K.
    "q6_k": FileType(LlamaFileType.MOSTLY_Q6_K, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
    "q5_k_m": FileType(LlamaFileType.MOSTLY_Q5_K_M, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
    "q4_k_m": FileType(LlamaFileType.MOSTLY_Q4_K_M, _Q.Q6_K, _Q.Q6_K, needs_quantizer=True),
}
