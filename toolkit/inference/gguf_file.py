"""A GGUF file's header, read before llama.cpp sees it: on many a damaged one llama.cpp aborts the whole process.

The layout is that of github.com/ggml-org/ggml/blob/master/docs/gguf.md.
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
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_SMALLEST_FIELD, _SMALLEST_TENSOR = 13, 24  # bytes: an empty name, a type and one byte; a name, dimensions, offset
_MOST_DIMENSIONS = 4
_MOST_LAYERS = 1_000
_RESPELT_SHARE = 0.01


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor stands: its shape with the columns first, and its place behind the header, in bytes."""

    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the weights. Of an array of numbers `fields` has the length alone, as of merges."""

    fields: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, GgufTensor] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the kind of model."""
        return str(self.fields.get("general.architecture", ""))


class _Damaged(Exception):
    """What is wrong, as the end of a sentence."""


class _Reader:
    """Reads little-endian values one after the other, never behind the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self.position = 0

    def skip(self, count: int) -> int:
        """Go on by `count` bytes and return where they begin."""
        start = self.position
        if count > self._size - start:
            raise _Damaged("it ends within its header")
        self.position += count
        return start

    def number(self, type_code: str) -> Any:
        return struct.unpack_from(f"<{type_code}", self._data, self.skip(struct.calcsize(f"<{type_code}")))[0]

    def length(self) -> int:
        """An unsigned 64-bit number, of which a vocabulary has hundreds of thousands."""
        return _LENGTH.unpack_from(self._data, self.skip(8))[0]

    def text(self) -> str:
        size = self.length()
        start = self.skip(size)
        return self._data[start : start + size].decode("utf-8", "replace")

    def count(self, items: str, min_bytes: int) -> int:
        """A number of things, each of at least `min_bytes` bytes: more than fit are not believed."""
        count = self.number("Q")
        if count > (self._size - self.position) // min_bytes:
            raise _Damaged(f"it claims {count:,} {items}, more than it has room for")
        return count


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a GGUF file's header; the weights are not touched.

    Raises:
        ModelError: it cannot be read, is no GGUF file, is damaged, or its numbers do not fit each other.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file.", hint="Give a file that run.export() wrote.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _parse_header(data)
        _check_header(header)
    except OSError as error:
        raise ModelError(
            f"The GGUF file {path} cannot be read: {error.strerror}.", hint="Export it with run.export()."
        ) from error
    except _Damaged as error:
        raise ModelError(
            f"llama.cpp cannot load {path}: it is cut short or damaged: {error}.", hint="Export it again."
        ) from error
    return header


def _parse_header(data: mmap.mmap) -> GgufHeader:
    reader = _Reader(data)
    reader.skip(4)
    if (version := reader.number("I")) not in _VERSIONS:
        raise _Damaged(f"its version is {version}, not 3")
    tensor_count = reader.count("tensors", _SMALLEST_TENSOR)
    field_count = reader.count("fields", _SMALLEST_FIELD)
    header = GgufHeader()
    for _ in range(field_count):
        _read_field(reader, header)
    for _ in range(tensor_count):
        _read_tensor(reader, header)
    alignment = header.fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _Damaged(f"its alignment is {alignment}")
    start = -(-reader.position // alignment) * alignment
    for name, tensor in header.tensors.items():
        if tensor.offset % alignment or start + tensor.offset + tensor.size > len(data):
            raise _Damaged(f"its tensor {name} does not lie within the file")
    return header


def _read_field(reader: _Reader, header: GgufHeader) -> None:
    key, kind = reader.text(), reader.number("I")
    if key in header.fields or key in header.lengths:
        raise _Damaged(f"its field {key!r} stands there twice")
    if kind == _STRING:
        header.fields[key] = reader.text()
    elif kind in _SCALARS:
        header.fields[key] = reader.number(_SCALARS[kind])
    elif kind == _ARRAY:
        _read_array(reader, header, key)
    else:
        raise _Damaged(f"its field {key!r} is of the unknown type {kind}")


def _read_array(reader: _Reader, header: GgufHeader, key: str) -> None:
    kind = reader.number("I")
    if kind == _STRING:
        count = reader.count(f"texts in {key!r}", 8)
        if key == "tokenizer.ggml.tokens":
            header.fields[key] = [reader.text() for _ in range(count)]
        else:
            for _ in range(count):
                reader.skip(reader.length())
    elif kind in _SCALARS:
        size = struct.calcsize(f"<{_SCALARS[kind]}")
        count = reader.count(f"numbers in {key!r}", size)
        reader.skip(size * count)
    else:
        raise _Damaged(f"its field {key!r} is a list of the unknown type {kind}")
    header.lengths[key] = count


def _read_tensor(reader: _Reader, header: GgufHeader) -> None:
    name, dimensions = reader.text(), reader.number("I")
    if name in header.tensors:
        raise _Damaged(f"its tensor {name!r} stands there twice")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"its tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    kind, offset = reader.number("I"), reader.number("Q")
    try:
        block_size, type_size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise _Damaged(f"its tensor {name!r} is of the unknown type {kind}") from None
    if not all(shape) or shape[0] % block_size:
        raise _Damaged(f"its tensor {name!r} has the shape {list(shape)}")
    header.tensors[name] = GgufTensor(shape, offset, math.prod(shape) // block_size * type_size)


def _check_header(header: GgufHeader) -> None:
    """What llama.cpp takes on trust, and aborts on when it is wrong."""
    architecture = header.architecture
    layers = _require_positive(header, f"{architecture}.block_count", _MOST_LAYERS)
    layer_numbers = {int(match[1]) for name in header.tensors if (match := re.match(r"blk\.(\d{1,9})\.", name))}
    if layer_numbers != set(range(layers)):
        raise _Damaged(f"it names {layers} layers and holds {len(layer_numbers)}")
    for key in ("context_length", "embedding_length"):
        _require_positive(header, f"{architecture}.{key}", 2**31 - 1)
    if invalid := [
        key
        for key, value in header.fields.items()
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0)
    ]:
        raise _Damaged(f"its {invalid[0]} is {header.fields[invalid[0]]}")
    token_count = header.lengths.get("tokenizer.ggml.tokens")
    if token_count is not None:
        _check_vocabulary(header, token_count)


def _require_positive(header: GgufHeader, key: str, maximum: int) -> int:
    value = header.fields.get(key)
    if not isinstance(value, int) or not 1 <= value <= maximum:
        raise _Damaged(f"its {key} is {value}")
    return value


def _check_vocabulary(header: GgufHeader, token_count: int) -> None:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape[1:] != (token_count,):
        raise _Damaged(f"it has {token_count:,} tokens for an embedding of the shape {list(embedding.shape)}")
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        if header.lengths.get(key, token_count) != token_count:
            raise _Damaged(f"{key} has {header.lengths[key]:,} values for {token_count:,} tokens")
    for key, value in header.fields.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not 0 <= value < token_count:
            raise _Damaged(f"its {key} is {value}, of {token_count:,} tokens")


def check_vocabulary(gguf: Path, header: GgufHeader, vocabulary: Mapping[str, int]) -> None:
    """Refuse a file whose token ids mean something else than the run's: its scores would be of other texts.

    Args:
        gguf: the file.
        header: its header.
        vocabulary: the run's tokens and their ids. Converters respell a few marker tokens, so some may differ.

    Raises:
        ModelError: it is of another vocabulary, or has none.
    """
    tokens = header.fields.get("tokenizer.ggml.tokens") or []
    mismatches = sum(
        not (token_id < len(tokens) and tokens[token_id] == token) for token, token_id in vocabulary.items()
    )
    if mismatches > _RESPELT_SHARE * len(vocabulary):
        raise ModelError(
            f"{gguf} has another vocabulary than the run: {mismatches:,} of {len(vocabulary):,} tokens differ.",
            hint="Give a GGUF file of this run; run.export() makes one.",
        )
