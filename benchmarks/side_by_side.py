"""What the benchmarks share: systems take turns in processes of their own, and their figures become one table.

Single timings on a shared machine mislead, so every round runs each system once, and medians and ratios are reported.
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


def parser(description: str, systems: Sequence[str]) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("model", help="a model folder, or embedded:tiny-llama-fr")
    flags.add_argument("--recipe", default="recipes/nli_fr.yaml", help="task, columns and adapter")
    flags.add_argument("--rounds", type=int, default=2, help="how often each system has its turn")
    flags.add_argument("--systems", nargs="+", default=list(systems), choices=list(systems))
    flags.add_argument("--out", type=Path, required=True, help="where OUT.md and OUT.json are written")
    return flags


def prepared(script: str, arguments: argparse.Namespace, keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job of all workers, of the arguments named `keys`, and what the worker `prepare` found for it."""
    from toolkit.embedded import MODEL_FOLDER

    job = {key: getattr(arguments, key) for key in ("model", "recipe", *keys)}
    job["model_folder"] = str(MODEL_FOLDER if arguments.model.startswith("embedded:") else arguments.model)
    (found,) = take_turns(script, job, ["prepare"], 1)["prepare"]
    return job, found


def take_turns(
    script: str, job: dict[str, Any], systems: Sequence[str], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run `script --work FILE` for each system in turn, `rounds` times.

    Args:
        script: a benchmark whose worker calls `finish`.
        job: what every worker gets; `system`, `round` and `folder` (kept until all have run) are added.

    Returns:
        For each system what its worker said in each round.
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
                said = json.loads(file.with_suffix(".result").read_text(encoding="utf-8"))
                print(f"{system}, round {number + 1}: {said['seconds']}", file=sys.stderr, flush=True)
                results[system].append(said)
    return results


def finish(job_file: Path, **result: Any) -> None:
    """A worker's last words: its figures, with the most memory that it held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    job_file.with_suffix(".result").write_text(json.dumps({**result, "peak_bytes": peak}), encoding="utf-8")


def median_seconds(said: Sequence[dict[str, Any]]) -> float:
    """The median over all rounds."""
    return statistics.median(seconds for one in said for seconds in one["seconds"])


def peak_gb(said: Sequence[dict[str, Any]]) -> float:
    """The most memory over all rounds, in GB."""
    return max(one["peak_bytes"] for one in said) / 1e9


def versions() -> dict[str, str]:
    """Python, the machine and every package that is measured."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {_cores()} cores"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], facts: dict[str, Any], out: Path) -> None:
    """Print a Markdown table, and write it beside a JSON file of all figures as OUT.md and OUT.json."""
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
