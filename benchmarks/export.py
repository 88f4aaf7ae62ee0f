"""Time and memory to write a GGUF file: this toolkit compared with llama.cpp's own converter.

python benchmarks/export.py models/llama-1b --converter llama.cpp/convert_hf_to_gguf.py --out outputs/bench/export-1b

The converter is in the source package of llama-cpp-python (vendor/llama.cpp). Each run is a separate process, and its
imports are included. `above packages` is the peak memory minus that of the interpreter and its imported packages.
"""

import json
import resource
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import Table, create_parser, median_seconds, peak_gb, report, take_turns, write_result

OURS, CONVERTER = "ours", "llama.cpp's converter"


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    # On Linux ru_maxrss is in KiB, see getrusage(2).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_with_toolkit(job: dict[str, Any], destination: Path) -> int:
    """Write the file with this toolkit and return the bytes held after all imports."""
    from toolkit.export.gguf_writer import write_gguf

    imported = peak_bytes()
    write_gguf(Path(job["model"]), destination, job["type"], date_string=None, name="model")
    return imported


def write_with_converter(job: dict[str, Any], destination: Path) -> int:
    """Run the converter in this process and return 0, because its imports cannot be measured separately."""
    sys.argv = [job["converter"], job["model"], "--outfile", str(destination), "--outtype", job["type"]]
    # The converter imports sentencepiece before it checks whether the folder has a SentencePiece model. An empty stub
    # is enough for a Llama 3 tokenizer.
    (destination.parent / "sentencepiece.py").write_text("SentencePieceProcessor = None\n", encoding="utf-8")
    sys.path[:0] = [str(Path(job["converter"]).parent), str(destination.parent)]
    runpy.run_path(job["converter"], run_name="__main__")
    return 0


def run_worker(file: Path) -> None:
    """Run one system for one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    destination = Path(job["folder"]) / "model.gguf"
    started = time.perf_counter()
    imported = (write_with_toolkit if job["system"] == OURS else write_with_converter)(job, destination)
    seconds = time.perf_counter() - started
    size = destination.stat().st_size
    destination.unlink()
    write_result(file, seconds=[round(seconds, 2)], imported_bytes=imported, size=size)


def main() -> None:
    """Run the benchmark and report the results."""
    parser = create_parser(__doc__ or "", [OURS, CONVERTER])
    parser.add_argument("--converter", required=True, help="path to llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--type", default="q8_0", help="GGUF type to write")
    arguments = parser.parse_args()
    job = {key: getattr(arguments, key) for key in ("model", "converter", "type")}
    results = take_turns(__file__, job, arguments.systems, arguments.rounds)
    title = f"{Path(arguments.model).name} to {arguments.type}"
    report(title, summarize(results), arguments.out, table)


def summarize(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one entry per system. `above_packages_gb` is None for the converter."""
    return [
        {
            "name": system,
            "seconds": median_seconds(rounds),
            "peak_gb": round(peak_gb(rounds), 3),
            "above_packages_gb": round((rounds[0]["peak_bytes"] - rounds[0]["imported_bytes"]) / 1e9, 3)
            if rounds[0]["imported_bytes"]
            else None,
            "file_gb": round(rounds[0]["size"] / 1e9, 3),
            "seconds_per_round": [result["seconds"][0] for result in rounds],
        }
        for system, rounds in results.items()
    ]


def table(systems: list[dict[str, Any]]) -> Table:
    """Return one table row per system."""
    return [["system", "seconds", "peak GB", "above packages", "file GB"]] + [
        [
            system["name"],
            f"{system['seconds']:.1f}",
            f"{system['peak_gb']:.2f}",
            "" if system["above_packages_gb"] is None else f"{system['above_packages_gb']:.2f}",
            f"{system['file_gb']:.3f}",
        ]
        for system in systems
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        run_worker(Path(sys.argv[2]))
    else:
        main()
