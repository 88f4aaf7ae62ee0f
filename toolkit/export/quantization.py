"""Quantization with llama.cpp's own quantizer, in a child process, for file types that the gguf package cannot make.

`python -m toolkit.export.quantization SOURCE DESTINATION TYPE THREADS` takes the place of `llama-quantize` if only
llama-cpp-python is installed.
"""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from joblib import cpu_count

from toolkit.errors import ExportError, QuantizerError
from toolkit.export.child_process import run_child
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.recipe.section import GgufType
from toolkit.utils.atomic_io import atomic_path

# The quantizer prints "[   3/ 291]" before each tensor's name.
_TENSOR_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def find_quantizer() -> list[str]:
    """Return the command that quantizes: `llama-quantize` if it is on the PATH, otherwise llama-cpp-python.

    Raises:
        ExportError: If neither is installed.
    """
    if program := shutil.which("llama-quantize"):
        return [program]
    if find_spec("llama_cpp"):
        return [sys.executable, "-m", "toolkit.export.quantization"]
    available = ", ".join(name for name, spec in FILE_TYPES.items() if not spec.needs_quantizer)
    raise ExportError(
        "q4_k_m, q5_k_m, and q6_k need llama.cpp's quantizer, which is not installed.",
        hint="Put llama-quantize on the PATH (llama.cpp's releases contain it), or build it in about five minutes with "
        f"pip install llama-cpp-python (the `kquants` extra). Types that do not need it: {available}.",
    )


def quantize_file(source: Path, destination: Path, file_type: GgufType) -> None:
    """Quantize a 16- or 32-bit GGUF file. Its metadata is kept, except for the file type.

    Args:
        source: The file to read.
        destination: The file to write. It is written atomically.
        file_type: A file type that needs the quantizer.

    Raises:
        ExportError: If no quantizer is installed.
        QuantizerError: If the quantizer fails.
    """
    command = find_quantizer()
    with atomic_path(destination) as partial:
        arguments = [*command, str(source), str(partial), file_type.upper(), str(cpu_count())]
        code, last_line = run_child(arguments, _find_progress, title=destination.name, unit="tensor")
        if code or not partial.is_file():
            raise QuantizerError(f"{command[0]} could not write {destination.name}. Its last message: {last_line}")


def _find_progress(line: str) -> tuple[int, int] | None:
    match = _TENSOR_PROGRESS.search(line)
    return (int(match[1]), int(match[2])) if match else None


def _main(source: str, destination: str, file_type: str, threads: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    # llama.cpp numbers its file types like `general.file_type`.
    params.ftype = FILE_TYPES[file_type.lower()].number  # type: ignore[index]
    params.nthread = int(threads)
    return llama_cpp.llama_model_quantize(source.encode(), destination.encode(), params)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
