"""A merged Hugging Face folder as one GGUF file, written in this process, tensor by tensor.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from gguf import GGMLQuantizationType, GGUFType, GGUFWriter, LlamaFileType, size_label
from gguf.constants import GGML_QUANT_SIZES, GGML_QUANT_VERSION
from gguf.quants import quantize
from tqdm.auto import tqdm

from toolkit.errors import ExportError
from toolkit.export.gguf_tokenizer import GgufTokenizer, read_chat_template, read_tokenizer
from toolkit.export.llama_config import LlamaConfig
from toolkit.export.llama_folder import LlamaFolder, Tensor
from toolkit.recipe import GgufType
from toolkit.run_folder import atomic_path

_FILE_TYPES = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
_CHUNK_VALUES = 1 << 24  # 64 MiB as float32: the embedding of a 3B model never stands in memory at full precision


@dataclass(frozen=True)
class _PlannedTensor:
    """One tensor of the file: its GGUF name, element shape, stored type, and where its values come from."""

    name: str
    shape: tuple[int, ...]
    stored_as: GGMLQuantizationType
    source: Tensor | np.ndarray

    @property
    def byte_count(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.stored_as]
        return int(np.prod(self.shape)) // block * block_bytes


def write_gguf(
    model_folder: Path, destination: Path, file_type: GgufType, *, date_string: str | None, name: str
) -> None:
    """Write the merged Llama model of `model_folder` as the GGUF file `destination`.

    Args:
        model_folder: config.json, tokenizer.json and 16- or 32-bit safetensors (one file or shards).
        destination: the file; it appears whole or not at all, and an older one is replaced.
        file_type: how matrices are stored; norms and other vectors are float32 always.
        date_string: today's date for the chat template, which otherwise asks the clock; None leaves the template as is.
        name: `general.name` of the file, shown by the programs that load it.

    Raises:
        ExportError: the folder is not a Llama model with Llama 3's tokenizer in 16- or 32-bit safetensors, or the file
            type is unknown.
    """
    if file_type not in get_args(GgufType):
        raise ExportError(
            f"The GGUF file type {file_type!r} is not known.", hint=f"Use one of {', '.join(get_args(GgufType))}."
        )
    folder = LlamaFolder(model_folder)
    tokenizer = read_tokenizer(model_folder, folder.config.vocab_size)
    template = read_chat_template(model_folder, date_string)
    tensors = _plan(folder, file_type)
    with atomic_path(destination) as partial, closing(GGUFWriter(partial, "llama")) as writer:
        writer.add_type(GGUFType.MODEL)
        writer.add_name(name)
        writer.add_size_label(size_label(_parameter_count(tensors), 0, 0, 0))
        _add_hyper_parameters(writer, folder.config)
        writer.add_file_type(_FILE_TYPES[file_type][0])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        _add_tokenizer(writer, tokenizer)
        if template is not None:
            writer.add_chat_template(template)
        _write(writer, tensors, destination.name)


def _plan(folder: LlamaFolder, file_type: GgufType) -> list[_PlannedTensor]:
    """Every tensor of the file in its order, before any is read."""
    planned = []
    factors = rope_factors(folder.config)
    if factors is not None:
        planned.append(_PlannedTensor("rope_freqs.weight", factors.shape, GGMLQuantizationType.F32, factors))
    for tensor in folder.tensors:
        stored_as = _stored_type(tensor.shape, file_type)
        planned.append(_PlannedTensor(tensor.gguf_name, tensor.shape, stored_as, tensor))
    return planned


def _stored_type(shape: tuple[int, ...], file_type: GgufType) -> GGMLQuantizationType:
    """Vectors are float32; a matrix whose rows do not divide into blocks is float16, as llama.cpp's converter does."""
    wanted = _FILE_TYPES[file_type][1]
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _parameter_count(tensors: Sequence[_PlannedTensor]) -> int:
    return sum(int(np.prod(tensor.shape)) for tensor in tensors if isinstance(tensor.source, Tensor))


def _add_hyper_parameters(writer: GGUFWriter, config: LlamaConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)


def _add_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.token_types)
    writer.add_token_merges(tokenizer.merges)
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    if tokenizer.eos_id is not None:
        writer.add_eos_token_id(tokenizer.eos_id)
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(tokenizer.add_bos)


def rope_factors(config: LlamaConfig) -> np.ndarray | None:
    """What Llama 3's scaling divides each rotary frequency by; None where the model does not scale.

    Wavelengths beyond the original context are stretched by `factor`, short ones stay, and those between are
    interpolated (Llama 3.1: `apply_scaling` in meta-llama/llama-models, `rope_type: llama3` in transformers).

    Returns:
        float32 [head_dim / 2], at least 1.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return None
    # In float32 step by step, so that the factors are bit for bit those of llama.cpp's converter.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    wavelengths = 2 * np.pi / (1 / np.float32(config.rope_theta) ** exponents)
    turns = scaling.original_max_position_embeddings / wavelengths
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)


def _write(writer: GGUFWriter, tensors: Sequence[_PlannedTensor], title: str) -> None:
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.byte_count, raw_dtype=tensor.stored_as
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(tensor.byte_count for tensor in tensors)
    with tqdm(total=total, unit="B", unit_scale=True, desc=title) as progress:
        for tensor in tensors:
            writer.write_tensor_data(_stored_values(tensor))
            progress.update(tensor.byte_count)


def _stored_values(tensor: _PlannedTensor) -> np.ndarray:
    """The tensor's values in their stored type, converted in blocks of rows."""
    if isinstance(tensor.source, np.ndarray):
        return tensor.source
    columns = 1 if len(tensor.shape) == 1 else tensor.shape[1]
    rows_at_once = max(1, _CHUNK_VALUES // columns)
    stored = np.concatenate([_convert(rows, tensor) for rows in tensor.source.read(rows_at_once)])
    return stored if tensor.source.row_order is None else stored[tensor.source.row_order]


def _convert(rows: np.ndarray, tensor: _PlannedTensor) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = quantize(rows, tensor.stored_as)
    if not np.isfinite(rows).all():
        raise ExportError(
            f"Tensor {tensor.name} holds values that are not finite, so the model cannot answer.",
            hint="Training or merging went wrong: look for a non-finite loss in train_log.jsonl and train again.",
        )
    if tensor.stored_as is GGMLQuantizationType.F16 and not np.isfinite(stored).all():
        raise ExportError(
            f"Tensor {tensor.name} holds values beyond float16's largest (65504).", hint="Use bf16, f32 or q8_0."
        )
    return stored
