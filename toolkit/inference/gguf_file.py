"""A reader that checks a GGUF file's header before llama.cpp opens the file.

On many damaged headers llama.cpp aborts the whole process instead of reporting an error. `gguf.GGUFReader` does not
replace this module: it accepts truncated fields, allocates memory without limit for a wrong array length, and takes ten
seconds to open a file with a vocabulary of 128k tokens, which takes 0.2 seconds here.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from toolkit.errors import ModelError

_VERSIONS = (2, 3)
# Value types by their id in the file, with the format characters of the struct module.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
# The fewest bytes of an entry: an empty name, a type and one byte; an empty name, a dimension count, a type, an offset.
_MIN_FIELD_BYTES, _MIN_TENSOR_BYTES = 13, 24
_MAX_DIMENSIONS = 4
_MAX_LAYERS = 1_000
_MAX_MISMATCH_SHARE = 0.01


@dataclass(frozen=True)
class GgufTensor:
    """The shape of a tensor, columns first as GGUF stores it, and its offset and size in the data section in bytes."""

    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """The metadata and tensor entries that precede the weights.

    Attributes:
        fields: Metadata values by key. The only array among them is the list of tokens.
        lengths: The length of every array in the metadata.
        tensors: Tensor entries by name.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, GgufTensor] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the model architecture, e.g. llama."""
        return str(self.fields.get("general.architecture", ""))


class _DamagedFileError(Exception):
    """Raised when a header is invalid, with a message that completes a sentence."""


class _Reader:
    """A cursor that reads little-endian values and never moves past the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self.position = 0

    def skip(self, count: int) -> int:
        """Move forward by `count` bytes and return the position where they start."""
        start = self.position
        if count > self._size - start:
            raise _DamagedFileError("it ends within its header")
        self.position += count
        return start

    def read_number(self, type_code: str) -> Any:
        return struct.unpack_from(f"<{type_code}", self._data, self.skip(struct.calcsize(f"<{type_code}")))[0]

    def read_length(self) -> int:
        """Read an unsigned 64-bit length."""
        # A vocabulary has hundreds of thousands of lengths, so the format is compiled once.
        return _LENGTH.unpack_from(self._data, self.skip(8))[0]

    def read_string(self) -> str:
        size = self.read_length()
        start = self.skip(size)
        return self._data[start : start + size].decode("utf-8", "replace")

    def read_count(self, items: str, min_bytes: int) -> int:
        """Read a count of items, each at least `min_bytes` long, and check that the file has room for them.

        A loop over an unchecked count from a damaged file could take forever.
        """
        count = self.read_number("Q")
        if count > (self._size - self.position) // min_bytes:
            raise _DamagedFileError(f"it claims to have {count:,} {items}, more than the file can hold")
        return count


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file without reading the weights.

    Raises:
        ModelError: If the file cannot be read, is not a GGUF file, is damaged, or has inconsistent values.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file.", hint="Use a file that run.export() wrote.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _parse_header(data)
        _check_header(header)
    except OSError as error:
        raise ModelError(
            f"The GGUF file {path} cannot be read: {error.strerror}.", hint="Create it with run.export()."
        ) from error
    except _DamagedFileError as error:
        raise ModelError(
            f"llama.cpp cannot load {path} because the file is truncated or damaged: {error}.", hint="Export it again."
        ) from error
    return header


def _parse_header(data: mmap.mmap) -> GgufHeader:
    reader = _Reader(data)
    reader.skip(4)  # the magic bytes, already checked
    if (version := reader.read_number("I")) not in _VERSIONS:
        raise _DamagedFileError(f"its version is {version}, not 2 or 3")
    tensor_count = reader.read_count("tensors", _MIN_TENSOR_BYTES)
    field_count = reader.read_count("fields", _MIN_FIELD_BYTES)
    header = GgufHeader()
    for _ in range(field_count):
        _read_field(reader, header)
    for _ in range(tensor_count):
        _read_tensor(reader, header)
    alignment = header.fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _DamagedFileError(f"its alignment is {alignment}, not a power of two")
    start = -(-reader.position // alignment) * alignment  # the data section starts at the next aligned byte
    for name, tensor in header.tensors.items():
        if tensor.offset % alignment or start + tensor.offset + tensor.size > len(data):
            raise _DamagedFileError(f"tensor {name} is not within the file, or is misaligned")
    return header


def _read_field(reader: _Reader, header: GgufHeader) -> None:
    key, value_type = reader.read_string(), reader.read_number("I")
    if key in header.fields or key in header.lengths:
        raise _DamagedFileError(f"it has the field {key!r} twice")
    if value_type == _STRING:
        header.fields[key] = reader.read_string()
    elif value_type in _SCALARS:
        header.fields[key] = reader.read_number(_SCALARS[value_type])
    elif value_type == _ARRAY:
        _read_array(reader, header, key)
    else:
        raise _DamagedFileError(f"field {key!r} has the unknown type {value_type}")


def _read_array(reader: _Reader, header: GgufHeader, key: str) -> None:
    item_type = reader.read_number("I")
    if item_type == _STRING:
        count = reader.read_count(f"strings in {key!r}", 8)
        if key == "tokenizer.ggml.tokens":
            header.fields[key] = [reader.read_string() for _ in range(count)]
        else:
            # Nothing here needs the merges. Decoding them would double the time that a large vocabulary takes.
            for _ in range(count):
                reader.skip(reader.read_length())
    elif item_type in _SCALARS:
        size = struct.calcsize(f"<{_SCALARS[item_type]}")
        count = reader.read_count(f"numbers in {key!r}", size)
        reader.skip(size * count)
    else:
        raise _DamagedFileError(f"field {key!r} is an array of the unknown type {item_type}")
    header.lengths[key] = count


def _read_tensor(reader: _Reader, header: GgufHeader) -> None:
    name, dimensions = reader.read_string(), reader.read_number("I")
    if name in header.tensors:
        raise _DamagedFileError(f"it has the tensor {name!r} twice")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _DamagedFileError(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.read_number("Q") for _ in range(dimensions))
    tensor_type, offset = reader.read_number("I"), reader.read_number("Q")
    try:
        block_size, type_size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor_type)]
    except (KeyError, ValueError):
        raise _DamagedFileError(f"tensor {name!r} has the unknown type {tensor_type}") from None
    # A quantized type packs `block_size` values of a row into `type_size` bytes, so a row must have whole blocks.
    if not all(shape) or shape[0] % block_size:
        raise _DamagedFileError(f"tensor {name!r} has the invalid shape {list(shape)}")
    header.tensors[name] = GgufTensor(shape, offset, math.prod(shape) // block_size * type_size)


def _check_header(header: GgufHeader) -> None:
    """Check the values that llama.cpp does not verify, and on which it aborts if they are wrong."""
    architecture = header.architecture
    layers = _require_positive(header, f"{architecture}.block_count", _MAX_LAYERS)
    layer_numbers = {int(match[1]) for name in header.tensors if (match := re.match(r"blk\.(\d{1,9})\.", name))}
    if layer_numbers != set(range(layers)):
        raise _DamagedFileError(f"its header promises {layers} layers, but it has {len(layer_numbers)}")
    for key in ("context_length", "embedding_length"):
        _require_positive(header, f"{architecture}.{key}", 2**31 - 1)
    # Floats in a header, such as epsilons, scales and frequencies, are never negative.
    if invalid := [
        key
        for key, value in header.fields.items()
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0)
    ]:
        raise _DamagedFileError(f"{invalid[0]} is {header.fields[invalid[0]]}")
    token_count = header.lengths.get("tokenizer.ggml.tokens")
    if token_count is not None:
        _check_vocabulary(header, token_count)


def _require_positive(header: GgufHeader, key: str, maximum: int) -> int:
    value = header.fields.get(key)
    if not isinstance(value, int) or not 1 <= value <= maximum:
        raise _DamagedFileError(f"{key} is {'missing' if value is None else value}")
    return value


def _check_vocabulary(header: GgufHeader, token_count: int) -> None:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape[1:] != (token_count,):
        raise _DamagedFileError(f"it has {token_count:,} tokens but an embedding of shape {list(embedding.shape)}")
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        if header.lengths.get(key, token_count) != token_count:
            raise _DamagedFileError(f"{key} has {header.lengths[key]:,} values for {token_count:,} tokens")
    for key, value in header.fields.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not 0 <= value < token_count:
            raise _DamagedFileError(f"{key} is {value}, but there are only {token_count:,} tokens")


def check_vocabulary(gguf: Path, header: GgufHeader, vocabulary: Mapping[str, int]) -> None:
    """Check that a GGUF file has the vocabulary of the run.

    Prompts are sent as token ids, so with another vocabulary the model would read different texts and score those.

    Args:
        gguf: The file.
        header: The header of the file.
        vocabulary: The run's tokens and their ids. A few may differ, because converters rename some special tokens.

    Raises:
        ModelError: If the file has a different vocabulary, or none.
    """
    tokens = header.fields.get("tokenizer.ggml.tokens") or []
    mismatches = sum(
        not (token_id < len(tokens) and tokens[token_id] == token) for token, token_id in vocabulary.items()
    )
    if mismatches > _MAX_MISMATCH_SHARE * len(vocabulary):
        raise ModelError(
            f"{gguf} does not have the vocabulary of the run: {mismatches:,} of {len(vocabulary):,} tokens differ.",
            hint="Use a GGUF file of this run. run.export() creates one.",
        )
