"""llama.cpp's own quantiser, for the file types that the gguf package cannot make: in a process of its own.

`python -m toolkit.export.quantization SOURCE DESTINATION TYPE THREADS` replaces `llama-quantize` where
llama-cpp-python is installed.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from joblib import cpu_count

from toolkit.errors import ExportError, QuantizerError
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.recipe.schema import GgufType
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.progress import progress_bar

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def find_quantizer() -> list[str]:
    """The command that quantises: `llama-quantize` on the PATH, or llama-cpp-python.

    Raises:
        ExportError: there is neither.
    """
    if program := shutil.which("llama-quantize"):
        return [program]
    if find_spec("llama_cpp"):
        return [sys.executable, "-m", "toolkit.export.quantization"]
    available = ", ".join(name for name, spec in FILE_TYPES.items() if not spec.needs_quantizer)
    raise ExportError(
        "q4_k_m, q5_k_m and q6_k are made by llama.cpp's quantiser, and there is none here.",
        hint="Put llama-quantize on the PATH (a release of llama.cpp has it), or build it in five minutes: "
        f"pip install llama-cpp-python (the extra kquants). Without it: {available}.",
    )


def quantize_file(source: Path, destination: Path, file_type: GgufType) -> None:
    """Quantise a 16- or 32-bit GGUF; its metadata stay but for the file type.

    Args:
        source: the file to read.
        destination: the file to write; it appears whole or not at all.
        file_type: one of those that need the quantiser.

    Raises:
        ExportError: there is no quantiser.
        QuantizerError: it fails.
    """
    command = find_quantizer()
    with atomic_path(destination) as partial:
        arguments = [*command, str(source), str(partial), file_type.upper(), str(cpu_count())]
        lines = []
        with (
            subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            ) as process,
            progress_bar(desc=destination.name, unit="tensor") as bar,
        ):
            for line in process.stdout or []:
                lines.append(line.strip())
                if match := _TENSOR.search(line):
                    bar.total = int(match[2])
                    bar.update(int(match[1]) - bar.n)
        if process.returncode or not partial.is_file():
            last_line = next((line for line in reversed(lines) if line), "nothing")
            raise QuantizerError(f"{command[0]} could not make {destination.name}; it ended with: {last_line}")


def _main(source: str, destination: str, file_type: str, threads: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type.lower()].number  # type: ignore[index]
    params.nthread = int(threads)
    return llama_cpp.llama_model_quantize(source.encode(), destination.encode(), params)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
