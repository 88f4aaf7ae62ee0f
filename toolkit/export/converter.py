"""llama.cpp's own converter, run in a child process, for models that the GGUF writer does not know."""

import re
import sys
from collections.abc import Sequence
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from gguf import GGUFReader, GGUFWriter
from gguf.scripts.gguf_new_metadata import copy_with_new_metadata

from toolkit.errors import ConverterError, ExportError, ModelError
from toolkit.export.child_process import run_child
from toolkit.export.gguf_header import Origin, add_origin
from toolkit.inference.gguf_file import read_gguf_header
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.prompts.dates import pin_date
from toolkit.recipe.section import GgufType
from toolkit.utils.atomic_io import atomic_path, file_sha256, scratch_path

_FILE_NAME = "convert_hf_to_gguf.py"
_WRITTEN_TYPES = ("f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0")
_QUANTIZED_TYPES = ("q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0")
# The converter's tqdm bar: "Writing:  45%|####".
_PERCENT = re.compile(r"(\d+)%\|")
_SENTENCEPIECE_MODEL = "tokenizer.model"
# What the converter guesses from the name of the folder, and sampling parameters that do not suit a classifier.
_GUESSED = re.compile(r"general\.(name|basename|finetune|version|organization|base_model\..*|sampling\..*)$")


@dataclass(frozen=True)
class Converter:
    """The user's copy of llama.cpp's convert_hf_to_gguf.py.

    Args:
        path: The file.
    """

    path: Path

    @classmethod
    def find(cls, path: Path, *untrusted: Path) -> "Converter":
        """Return the converter at a path, which is the file or the folder of llama.cpp's source.

        Args:
            path: The path that the user gave.
            untrusted: Folders from which no code is run: those of the run and of its base model.

        Raises:
            ExportError: If there is no such file, or it is in one of the folders.
        """
        file = path / _FILE_NAME if path.is_dir() else path
        if not file.is_file():
            raise ExportError(
                f"There is no converter {file}.",
                hint=f"Give the path of {_FILE_NAME} in a copy of llama.cpp's source (https://github.com/ggml-org/llama.cpp).",
            )
        for folder in untrusted:
            if any(place.is_relative_to(folder.resolve()) for place in (file.resolve(), file.parent.resolve())):
                raise ExportError(
                    f"The converter {file} is in {folder}, but code from the folder of a run or a model is never run.",
                    hint=f"Give the path of {_FILE_NAME} in a copy of llama.cpp's source that you trust.",
                )
        return cls(file)

    @cached_property
    def record(self) -> dict[str, str]:
        """The name and the digest of the file, for parity.json."""
        return {"file": self.path.name, "sha256": file_sha256(self.path)}

    def check(self, model_folder: Path, file_types: Sequence[GgufType]) -> None:
        """Convert only the vocabulary of a model, to check before the long work that the converter knows it.

        Raises:
            ConverterError: If the converter fails.
            ExportError: If a file type can be written neither by the converter nor by llama.cpp's quantizer.
        """
        for file_type in file_types:
            if file_type not in (*_WRITTEN_TYPES, *_QUANTIZED_TYPES):
                raise ExportError(
                    f"Neither llama.cpp's converter nor its quantizer writes files of type {file_type}.",
                    hint=f"Use one of {', '.join((*_WRITTEN_TYPES, *_QUANTIZED_TYPES))}.",
                )
        with TemporaryDirectory() as folder:
            self._run(model_folder, Path(folder) / "vocabulary.gguf", "--vocab-only")

    def convert(
        self,
        model_folder: Path,
        destination: Path,
        file_type: GgufType,
        *,
        base: Path,
        date_string: str | None,
        name: str,
        origin: Origin,
    ) -> None:
        """Convert a merged model, and add the metadata that `gguf_writer.write_gguf` writes.

        Args:
            model_folder: The merged model.
            destination: The GGUF file. It is written atomically and replaces an existing one.
            file_type: A file type that the converter writes; see `needs_quantizer`.
            base: The folder of the base model. Merging does not keep a SentencePiece model, which the converter reads.
            date_string: The date that the chat template prints as today's. None leaves the template unchanged.
            name: The file's `general.name`.
            origin: The provenance of the model.

        Raises:
            ConverterError: If the converter fails, or its output is not a GGUF file.
        """
        with scratch_path(destination.with_name("converted")) as scratch, atomic_path(destination) as partial:
            scratch.mkdir()
            # A fixed name, because the converter fills braces in the name of the file.
            source, converted = scratch / "model", scratch / "model.gguf"
            source.mkdir()
            for file in model_folder.iterdir():
                (source / file.name).symlink_to(file.resolve())
            if (base / _SENTENCEPIECE_MODEL).is_file() and not (source / _SENTENCEPIECE_MODEL).exists():
                (source / _SENTENCEPIECE_MODEL).symlink_to((base / _SENTENCEPIECE_MODEL).resolve())
            self._run(source, converted, "--outtype", file_type, title=destination.name)
            try:
                read_gguf_header(converted)
            except ModelError as error:
                raise ConverterError(
                    f"{self.path} wrote a file that llama.cpp cannot load: {error}", hint=_FAILURE_HINT
                ) from error
            _add_metadata(converted, partial, date_string, name, origin)

    def _run(self, model_folder: Path, output: Path, *flags: str, title: str = "converter") -> None:
        arguments = [sys.executable, str(self.path), str(model_folder), "--outfile", str(output), *flags]
        code, last_message = run_child(arguments, _find_percent, title=title, unit="%")
        if code or not output.is_file():
            ending = f"failed with exit code {code}" if code else "wrote no file"
            raise ConverterError(f"{self.path} {ending}. Its last message: {last_message}", hint=_FAILURE_HINT)


_FAILURE_HINT = (
    "If a package is missing, install llama.cpp's requirements/requirements-convert_hf_to_gguf.txt. If the model or "
    "its tokenizer is not supported, try a newer version of llama.cpp."
)


def needs_quantizer(file_type: GgufType, converter: Converter | None) -> bool:
    """Return whether only llama.cpp's quantizer can write a file type, given the program that writes the others."""
    return FILE_TYPES[file_type].needs_quantizer if converter is None else file_type not in _WRITTEN_TYPES


def _find_percent(line: str) -> tuple[int, int] | None:
    match = _PERCENT.search(line)
    return (int(match[1]), 100) if match else None


def _add_metadata(source: Path, destination: Path, date_string: str | None, name: str, origin: Origin) -> None:
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    with closing(GGUFWriter(destination, architecture, endianess=reader.endianess)) as writer:
        writer.data_alignment = reader.alignment
        writer.add_name(name)
        writer.add_sampling_temp(0.0)
        add_origin(writer, origin)
        for key, field in reader.fields.items():
            if re.match(r"tokenizer\.chat_template(\.|$)", key):
                writer.add_string(key, pin_date(field.contents(), date_string))
        replaced = [key for key in reader.fields if key in writer.kv_data[0] or _GUESSED.match(key)]
        with redirect_stderr(StringIO()):  # its progress bar would also appear in the API
            copy_with_new_metadata(reader, writer, {}, replaced)
