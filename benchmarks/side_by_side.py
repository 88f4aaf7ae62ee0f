"""Shared code of the benchmarks: systems take turns in separate processes, and the results are written as JSON.

A single timing on a shared machine is misleading, so every round runs each system once, and the benchmarks report
medians and ratios. A benchmark writes DIR/NAME.json, a list with one entry per system or case, from which its function
`table` makes a table, and DIR/environment.json with title, date, command line, versions and machine.
"""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
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
    "bitsandbytes",
    "xformers",
    "vllm",
    "gguf",
    "xllamacpp",
)
ENVIRONMENT = "environment.json"
_NUMBER = re.compile(r"-?[\d.,]*(e-?\d+)?[x%]?( ms| s)?")
Table = list[list[str]]
"""The cells of a table by row. The first row is the header."""


def create_parser(description: str, systems: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or embedded:tiny-llama-fr")
    parser.add_argument(
        "--recipe", default="recipes/nli_fr.yaml", help="recipe with the task, the columns and the adapter"
    )
    parser.add_argument("--rounds", type=int, default=2, help="number of times to run each system")
    parser.add_argument("--systems", nargs="+", default=list(systems), choices=list(systems))
    add_out_flag(parser)
    return parser


def add_out_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the folder of the results."""
    name = benchmark_name()
    parser.add_argument(
        "--out", type=_result_folder, required=True, metavar="DIR", help=f"write DIR/{name}.json and DIR/{ENVIRONMENT}"
    )


def _result_folder(value: str) -> Path:
    folder = Path(value)
    others = [path.name for path in folder.glob("*.json") if path.name not in (f"{benchmark_name()}.json", ENVIRONMENT)]
    if others and (folder / ENVIRONMENT).is_file():
        raise argparse.ArgumentTypeError(
            f"{folder} already contains {others[0]} of another benchmark; choose another folder"
        )
    return folder


def benchmark_name() -> str:
    """Return the name of the benchmark that is running."""
    return Path(sys.argv[0]).stem


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
    script: str, job: dict[str, Any], systems: Sequence[str], rounds: int, ends: Mapping[str, float] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --work FILE` for each system in turn, `rounds` times.

    Args:
        script: A benchmark whose worker calls `write_result`.
        job: The input of every worker. This function adds `system`, `round` and `folder`, a temporary folder that
            exists until all workers have finished.
        systems: The systems.
        rounds: The number of times to run each of them.
        ends: The time, as from `time.time()`, at which to stop the worker of each system. If given, a worker that is
            stopped or fails does not end the benchmark. Its result then has the field `error`.

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
                limit = ends[system] - time.time() if ends else None
                command = [sys.executable, script, "--work", file]
                try:
                    subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
                    result = json.loads(file.with_suffix(".result").read_text(encoding="utf-8"))
                except subprocess.CalledProcessError as error:
                    if not ends:
                        sys.exit(f"{system} failed:\n{error.stderr[-3000:]}")
                    lines = error.stderr.strip().splitlines() or ["no message"]
                    result = {"seconds": [], "error": f"exit code {error.returncode}: {lines[-1][:300]}"}
                except subprocess.TimeoutExpired:
                    result = {"seconds": [], "error": "stopped, no time left"}
                shown = result.get("error", result["seconds"])
                print(f"{system}, round {number + 1}: {shown}", file=sys.stderr, flush=True)
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
    # os.cpu_count() would include cores that this process is not allowed to use.
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    installed = {
        "machine": f"{platform.machine()}, {cores} cores",
        "cpu": model[1] if model else platform.processor(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def markdown(table: Table) -> str:
    """Return a table as Markdown. Columns of numbers are right-aligned."""
    header, *rows = table
    columns = zip(*rows, strict=True)
    marks = ["---:" if all(map(_NUMBER.fullmatch, column)) else "---" for column in columns]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, marks, *rows))


def report(title: str, results: list[dict[str, Any]], out: Path, *tables: Callable[..., Table], **facts: Any) -> None:
    """Print the tables, and write the results and the environment in which they were measured.

    Args:
        title: The title of the results.
        results: One entry per system or case.
        out: The folder to write to.
        tables: Functions that make a table from the results.
        facts: Additional fields of environment.json.
    """
    name = benchmark_name()
    text = "\n".join([f"### {title}\n", *(markdown(table(results)) for table in tables)])
    environment = {
        "title": title,
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        **facts,
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, content in ((f"{name}.json", results), (ENVIRONMENT, environment)):
        (out / file).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(text)
