"""A merged Hugging Face folder as one GGUF file, written in this process, tensor by tensor.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from joblib import cpu_count

from toolkit.errors import ExportError
from toolkit.export.gguf_header import Origin, add_model, add_tokenizer
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.export.llama_config import LlamaConfig
from toolkit.export.llama_folder import LlamaFolder, Tensor
from toolkit.models.gguf_types import FILE_TYPES, HEADER_BYTES, FileType
from toolkit.recipe.schema import GgufType
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.progress import progress_bar

_CHUNK_VALUES = 1 << 22  # 16 MiB as float32: what a thread holds at full precision


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
        return self.value_count // block * block_bytes

    @property
    def value_count(self) -> int:
        return int(np.prod(self.shape))


def write_gguf(
    model_folder: Path,
    destination: Path,
    file_type: GgufType,
    *,
    date_string: str | None,
    name: str,
    origin: Origin | None = None,
) -> None:
    """Write the merged Llama model of `model_folder` as the GGUF file `destination`.

    Args:
        model_folder: config.json, tokenizer.json and 16- or 32-bit safetensors (one file or shards).
        destination: the file; it appears whole or not at all, and an older one is replaced.
        file_type: how matrices are stored; norms and other vectors are float32 always.
        date_string: today's date for the chat template, which otherwise asks the clock; None leaves the template as is.
        name: `general.name` of the file, shown by the programs that load it.
        origin: where the model comes from, for the file's header.

    Raises:
        ExportError: the folder is not a Llama model with Llama 3's tokenizer in 16- or 32-bit safetensors, or the file
            type is not one that this module writes.
    """
    spec = FILE_TYPES.get(file_type)
    if spec is None or spec.needs_quantizer:
        supported = [name for name, entry in FILE_TYPES.items() if not entry.needs_quantizer]
        raise ExportError(
            f"GGUF files of type {file_type!r} are not written here.", hint=f"Use {', '.join(supported)}."
        )
    folder = LlamaFolder(model_folder)
    tokenizer = read_tokenizer(model_folder, folder.config.vocab_size, date_string)
    tensors = _plan_tensors(folder, spec)
    with atomic_path(destination) as partial, closing(GGUFWriter(partial, "llama")) as writer:
        parameters = sum(tensor.value_count for tensor in tensors if isinstance(tensor.source, Tensor))
        add_model(writer, folder.config, spec, name=name, parameters=parameters, origin=origin)
        add_tokenizer(writer, tokenizer)
        _write_tensors(writer, tensors, destination.name)


def gguf_bytes(model_folder: Path, file_type: GgufType) -> int:
    """How large the GGUF of a model folder will be, in bytes; for llama.cpp's mixtures at most.

    Raises:
        ExportError: as `write_gguf`.
    """
    return HEADER_BYTES + sum(
        tensor.byte_count for tensor in _plan_tensors(LlamaFolder(model_folder), FILE_TYPES[file_type])
    )


def _plan_tensors(folder: LlamaFolder, spec: FileType) -> list[_PlannedTensor]:
    """Every tensor of the file in its order, before any is read."""
    planned = []
    factors = rope_factors(folder.config)
    if factors is not None:
        planned.append(_PlannedTensor("rope_freqs.weight", factors.shape, GGMLQuantizationType.F32, factors))
    for tensor in folder.tensors:
        planned.append(_PlannedTensor(tensor.gguf_name, tensor.shape, _stored_type(tensor, spec), tensor))
    return planned


def _stored_type(tensor: Tensor, spec: FileType) -> GGMLQuantizationType:
    """Vectors are float32; a matrix whose rows do not divide into blocks is float16, as llama.cpp's converter does."""
    if len(tensor.shape) == 1:
        return GGMLQuantizationType.F32
    is_embedding = tensor.gguf_name in ("token_embd.weight", "output.weight")
    quantized_type = spec.embeddings if is_embedding else spec.matrices
    return quantized_type if tensor.shape[-1] % GGML_QUANT_SIZES[quantized_type][0] == 0 else GGMLQuantizationType.F16


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
            writer.write_padding(file, file.tell())
            # The writer's own write_tensor_data wants a whole tensor at once.
            for block in _stored_blocks(tensor, threads):
                block.tofile(file)
                progress.update(block.nbytes)
            writer.write_padding(file, file.tell())


def _stored_blocks(tensor: _PlannedTensor, threads: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """The tensor's values as they are stored, in blocks of rows; numpy converts them without the GIL."""
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
