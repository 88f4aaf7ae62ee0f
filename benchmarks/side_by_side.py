"""Shared code of the benchmarks: systems take turns in separate processes, and the results form one table.

A single timing on a shared machine is misleading, so every round runs each system once, and the benchmarks report
medians and ratios.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "unsloth",
    "unsloth_zoo",
    "accelerate",
    "lm_eval",
    "outlines",
    "gguf",
    "xllamacpp",
)


def create_parser(description: str, systems: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or embedded:tiny-llama-fr")
    parser.add_argument(
        "--recipe", default="recipes/nli_fr.yaml", help="recipe with the task, the columns and the adapter"
    )
    parser.add_argument("--rounds", type=int, default=2, help="number of times to run each system")
    parser.add_argument("--systems", nargs="+", default=list(systems), choices=list(systems))
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md and OUT.json")
    return parser


def prepare_job(
    script: str, arguments: argparse.Namespace, keys: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the job that all workers share and the result of the worker `prepare`.

    Args:
        script: The benchmark to run.
        arguments: The parsed command line.
        keys: The names of the arguments to copy into the job.
    """
    from toolkit.embedded import MODEL_FOLDER

    job = {key: getattr(arguments, key) for key in ("model", "recipe", *keys)}
    job["model_folder"] = str(MODEL_FOLDER if arguments.model.startswith("embedded:") else arguments.model)
    (prepared,) = take_turns(script, job, ["prepare"], 1)["prepare"]
    return job, prepared


def take_turns(
    script: str, job: dict[str, Any], systems: Sequence[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --work FILE` for each system in turn, `rounds` times.

    Args:
        script: A benchmark whose worker calls `write_result`.
        job: The input of every worker. This function adds `system`, `round` and `folder`, a temporary folder that
            exists until all workers have finished.

    Returns:
        The results of each system, one per round.
    """
    results: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    with TemporaryDirectory() as folder:
        for number in range(rounds):
            for system in systems:
                file = Path(folder) / f"{system}-{number}.json"
                file.write_text(
                    json.dumps({**job, "system": system, "round": number, "folder": folder}), encoding="utf-8"
                )
                done = subprocess.run([sys.executable, script, "--work", file], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{system} failed:\n{done.stderr[-3000:]}")
                result = json.loads(file.with_suffix(".result").read_text(encoding="utf-8"))
                print(f"{system}, round {number + 1}: {result['seconds']}", file=sys.stderr, flush=True)
                results[system].append(result)
    return results


def write_result(job_file: Path, **result: Any) -> None:
    """Write the result of a worker, together with its peak resident memory, next to the job file."""
    # On Linux ru_maxrss is in KiB, see getrusage(2).
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    job_file.with_suffix(".result").write_text(json.dumps({**result, "peak_bytes": peak}), encoding="utf-8")


def median_seconds(rounds: Sequence[dict[str, Any]]) -> float:
    """Return the median of all timings in all rounds."""
    return statistics.median(seconds for result in rounds for seconds in result["seconds"])


def peak_gb(rounds: Sequence[dict[str, Any]]) -> float:
    """Return the highest peak memory of all rounds, in GB."""
    return max(result["peak_bytes"] for result in rounds) / 1e9


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages, and the machine."""
    installed = {"python": platform.python_version(), "machine": f"{platform.machine()}, {_cores()} cores"}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def _cores() -> int:
    # os.cpu_count() would include cores that this process is not allowed to use.
    return len(os.sched_getaffinity(0))


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], facts: dict[str, Any], out: Path) -> None:
    """Print a Markdown table, and write it to OUT.md and all results to OUT.json."""
    lines = [f"### {title}", "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    out.with_suffix(".json").write_text(
        json.dumps({"title": title, "versions": versions(), **facts}, ensure_ascii=False, indent=2) + "\n",
        encoding="utf-8",
    )
