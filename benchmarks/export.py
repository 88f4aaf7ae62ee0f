"""Seconds and memory of writing a GGUF: this toolkit beside llama.cpp's own converter, on the same folder.

python benchmarks/export.py models/llama-1b --converter llama.cpp/convert_hf_to_gguf.py --out outputs/bench/export-1b

The converter is in the source package of llama-cpp-python (vendor/llama.cpp). Each run is a process of its own, imports
included. `above packages` is the most memory held beyond the interpreter with what it has imported.
"""

import json
import resource
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import finish, median_seconds, parser, peak_gb, report, take_turns

OURS, CONVERTER = "ours", "llama.cpp's converter"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_ours(job: dict[str, Any], destination: Path) -> int:
    """Write with this toolkit; returns the bytes held once everything is imported."""
    from toolkit.export.gguf_writer import write_gguf

    imported = peak_bytes()
    write_gguf(Path(job["model"]), destination, job["type"], date_string=None, name="model")
    return imported


def write_theirs(job: dict[str, Any], destination: Path) -> int:
    """Run the converter in this process; returns 0, since it imports as it goes."""
    sys.argv = [job["converter"], job["model"], "--outfile", str(destination), "--outtype", job["type"]]
    # The converter imports sentencepiece before it sees that the folder has no model of that kind.
    (destination.parent / "sentencepiece.py").write_text("SentencePieceProcessor = None\n", encoding="utf-8")
    sys.path[:0] = [str(Path(job["converter"]).parent), str(destination.parent)]
    runpy.run_path(job["converter"], run_name="__main__")
    return 0


def work(file: Path) -> None:
    """One system in one round."""
    job = json.loads(file.read_text(encoding="utf-8"))
    destination = Path(job["folder"]) / "model.gguf"
    started = time.perf_counter()
    imported = (write_ours if job["system"] == OURS else write_theirs)(job, destination)
    seconds = time.perf_counter() - started
    size = destination.stat().st_size
    destination.unlink()
    finish(file, seconds=[round(seconds, 2)], imported_bytes=imported, size=size)


def main() -> None:
    """Parse, run, report."""
    flags = parser(__doc__ or "", [OURS, CONVERTER])
    flags.add_argument("--converter", required=True, help="llama.cpp's convert_hf_to_gguf.py")
    flags.add_argument("--type", default="q8_0", help="the file type to write")
    arguments = flags.parse_args()
    job = {key: getattr(arguments, key) for key in ("model", "converter", "type")}
    results = take_turns(__file__, job, arguments.systems, arguments.rounds)
    rows = [
        [
            system,
            f"{median_seconds(said):.1f}",
            f"{peak_gb(said):.2f}",
            f"{(said[0]['peak_bytes'] - said[0]['imported_bytes']) / 1e9:.2f}" if said[0]["imported_bytes"] else "",
            f"{said[0]['size'] / 1e9:.3f}",
        ]
        for system, said in results.items()
    ]
    title = f"{Path(arguments.model).name} to {arguments.type}"
    header = ["system", "seconds", "peak GB", "above packages", "file GB"]
    report(title, header, rows, {"job": job, "results": results}, arguments.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
    else:
        main()
