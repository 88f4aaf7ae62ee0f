"""A writer that turns a merged Hugging Face model folder into one GGUF file, tensor by tensor, in this process.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quant_shape_to_byte_shape, quantize
from joblib import cpu_count

from toolkit.errors import ExportError
from toolkit.export.gguf_header import Origin, add_model, add_tokenizer
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.models.decoder_config import DecoderConfig, Llama3Scaling
from toolkit.models.decoder_folder import DecoderFolder, Tensor
from toolkit.models.gguf_types import FILE_TYPES, HEADER_BYTES, FileType
from toolkit.recipe.section import GgufType
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.progress import progress_bar

_CHUNK_VALUES = 1 << 22  # values that a thread holds as float32: 16 MiB


@dataclass(frozen=True)
class _PlannedTensor:
    """A tensor of the GGUF file: its name, shape in elements, stored type, and the source of its values."""

    name: str
    shape: tuple[int, ...]
    stored_as: GGMLQuantizationType
    source: Tensor | np.ndarray

    @property
    def byte_count(self) -> int:
        return math.prod(quant_shape_to_byte_shape(self.shape, self.stored_as))

    @property
    def value_count(self) -> int:
        return math.prod(self.shape)


def write_gguf(
    model_folder: Path,
    destination: Path,
    file_type: GgufType,
    *,
    date_string: str | None,
    name: str,
    origin: Origin | None = None,
) -> None:
    """Write the merged decoder in `model_folder` to the GGUF file `destination`.

    Args:
        model_folder: A folder with config.json, tokenizer.json, and 16- or 32-bit safetensors (one file or shards).
        destination: The GGUF file. It is written atomically and replaces an existing one.
        file_type: The storage of matrices. Norms and other vectors are always float32.
        date_string: The date that the chat template prints as today's. None leaves the template unchanged, and it then
            reads the clock.
        name: The file's `general.name`, which programs show when they load it.
        origin: The provenance of the model, for the metadata.

    Raises:
        ExportError: If the folder is not a decoder of a known family in 16- or 32-bit safetensors, if llama.cpp does
            not know its tokenizer, or if the file type is unknown or needs llama.cpp's quantizer.
    """
    spec = FILE_TYPES.get(file_type)
    if spec is None or spec.needs_quantizer:
        supported = [name for name, entry in FILE_TYPES.items() if not entry.needs_quantizer]
        raise ExportError(
            f"GGUF files of type {file_type!r} cannot be written in this process.",
            hint=f"Use one of {', '.join(supported)}.",
        )
    folder = DecoderFolder(model_folder)
    tokenizer = read_tokenizer(model_folder, folder.config.vocab_size, date_string)
    tensors, arch = _plan_tensors(folder, spec), folder.config.family.gguf
    with atomic_path(destination) as partial, closing(GGUFWriter(partial, MODEL_ARCH_NAMES[arch])) as writer:
        parameters = sum(tensor.value_count for tensor in tensors if isinstance(tensor.source, Tensor))
        add_model(writer, folder.config, spec, name=name, parameters=parameters, origin=origin)
        add_tokenizer(writer, tokenizer)
        _write_tensors(writer, tensors, destination.name)


def gguf_bytes(model_folder: Path, file_type: GgufType) -> int:
    """Return an upper bound for the size of a model folder's GGUF file, in bytes.

    Raises:
        ExportError: If the folder is not a complete decoder of a known family in 16- or 32-bit safetensors.
    """
    return HEADER_BYTES + sum(
        tensor.byte_count for tensor in _plan_tensors(DecoderFolder(model_folder), FILE_TYPES[file_type])
    )


def _plan_tensors(folder: DecoderFolder, spec: FileType) -> list[_PlannedTensor]:
    """Return every tensor of the file in file order, without reading any values."""
    planned = []
    factors = compute_rope_factors(folder.config)
    if factors is not None:
        planned.append(_PlannedTensor("rope_freqs.weight", factors.shape, GGMLQuantizationType.F32, factors))
    for tensor in folder.tensors:
        planned.append(_PlannedTensor(tensor.gguf_name, tensor.shape, _stored_type(tensor, spec), tensor))
    return planned


def _stored_type(tensor: Tensor, spec: FileType) -> GGMLQuantizationType:
    """Return the type that a tensor is stored as: float32 for vectors, the file type's choice for matrices."""
    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    is_embedding = tensor.gguf_name in ("token_embd.weight", "output.weight")
    quantized_type = spec.embeddings if is_embedding else spec.matrices
    # Quantized types store whole blocks of a row. Like llama.cpp's converter, fall back to float16 if they do not fit.
    return quantized_type if tensor.shape[-1] % GGML_QUANT_SIZES[quantized_type][0] == 0 else GGMLQuantizationType.F16


def compute_rope_factors(config: DecoderConfig) -> np.ndarray | None:
    """Return the divisors of the rotary frequencies under Llama 3's scaling, or None if the model does not use it.

    Long wavelengths are stretched by `factor`, short ones are unchanged, and those in between are interpolated
    (Llama 3.1: `apply_scaling` in meta-llama/llama-models, `rope_type: llama3` in transformers).

    Returns:
        float32 [head_dim / 2], at least 1.
    """
    scaling = config.rope_scaling
    if not isinstance(scaling, Llama3Scaling):
        return None
    # Every step is in float32 so that the factors equal those of llama.cpp's converter bit for bit.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    wavelengths = 2 * np.pi / (1 / np.float32(config.rope_theta) ** exponents)
    turns = scaling.original_max_position_embeddings / wavelengths
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)


def _write_tensors(writer: GGUFWriter, tensors: Sequence[_PlannedTensor], title: str) -> None:
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.byte_count, raw_dtype=tensor.stored_as
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    [file] = writer.fout or []
    total = sum(tensor.byte_count for tensor in tensors)
    with (
        ThreadPoolExecutor(cpu_count()) as threads,
        progress_bar(total=total, unit="B", unit_scale=True, desc=title) as progress,
    ):
        for tensor in tensors:
            # GGUF aligns the start of every tensor's data, so padding comes before the first and after each of them.
            writer.write_padding(file, file.tell())
            # GGUFWriter.write_tensor_data takes whole tensors only. Writing blocks of rows keeps peak memory low.
            for block in _stored_blocks(tensor, threads):
                block.tofile(file)
                progress.update(block.nbytes)
            writer.write_padding(file, file.tell())


def _stored_blocks(tensor: _PlannedTensor, threads: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """Return a tensor's stored values in blocks of rows, converted by threads: numpy releases the GIL for that."""
    source = tensor.source
    if isinstance(source, np.ndarray):
        return iter([source])
    columns = 1 if len(tensor.shape) == 1 else tensor.shape[1]
    rows_at_once = max(1, _CHUNK_VALUES // columns)
    return threads.map(
        lambda start: _convert(source.read(start, start + rows_at_once), tensor),
        range(0, tensor.shape[0], rows_at_once),
    )


def _convert(rows: np.ndarray, tensor: _PlannedTensor) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = quantize(rows, tensor.stored_as)
    # Quantized values are packed bytes, in which NaN cannot be recognized: check the values before conversion.
    if not np.isfinite(rows).all():
        raise ExportError(
            f"Tensor {tensor.name} contains NaN or infinity, so the model cannot answer.",
            hint="Training or merging went wrong. Look for a non-finite loss in train_log.jsonl and train again.",
        )
    if tensor.stored_as is GGMLQuantizationType.F16 and not np.isfinite(stored).all():
        raise ExportError(
            f"Tensor {tensor.name} contains values beyond the range of float16 (65504).", hint="Use bf16, f32, or q8_0."
        )
    return stored
