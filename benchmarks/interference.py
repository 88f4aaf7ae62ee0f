"""Run pairs of commands on one run at the same time, and kill evaluation and prediction at random moments.

    python benchmarks/interference.py --kills 20 --out /tmp/interference

Afterwards every result must equal that of an undisturbed command, or be absent because its command was refused.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from side_by_side import Table, add_out_flag, report

OVERRIDES = [
    "training.max_steps=20", "training.batch_size=6", "data.train.limit=120", "data.eval.limit=60",
    "evaluation.baselines=false",
]  # fmt: skip
REFUSALS = (
    "Another process", "another command", "was replaced by another training", "has changed since", "is missing",
    "not a finished run", "belongs to another", "was measured with another", "There is no run folder",
)  # fmt: skip


def commands(run: Path, recipe: str) -> dict[str, list[str]]:
    """Return the command lines that use a run, by name."""
    overrides = [argument for override in OVERRIDES for argument in ("--set", override)]
    rows = run.parent / "rows.jsonl"
    arguments: dict[str, list[object]] = {
        "train": ["scripts/sft.py", recipe, *overrides, "--output-dir", run, "--overwrite"],
        "evaluate": ["scripts/eval_generate.py", run],
        "predict": ["scripts/predict.py", run, "--input", rows, "--output", run.parent / "predicted.jsonl"],
        "compare": ["scripts/compare.py", run / "eval" / "adapter", run / "eval" / "base"],
        "export": ["scripts/export_gguf.py", run, "--verify", "20", "--min-agreement", "0.5"],
    }
    return {name: [sys.executable, *map(str, words)] for name, words in arguments.items()}


def complete(command: list[str]) -> None:
    """Run a command that must succeed."""
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{command} failed:\n{finished.stderr[-3000:]}")


def results(run: Path) -> dict[str, Any]:
    """Return the contents of a run's results and of the predicted file, without times."""
    contents: dict[str, Any] = {}
    for path in [*run.glob("adapter/*"), *run.glob("merged/*"), *run.glob("gguf/*.gguf"), *run.glob("eval/*/*.jsonl")]:
        contents[path.relative_to(run).as_posix()] = path.read_bytes()
    for path in run.glob("eval/*/metrics.json"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        metrics["seal"].pop("content")  # a digest of all fields, of which the timings differ
        contents[path.relative_to(run).as_posix()] = {key: metrics[key] for key in metrics.keys() - {"speed"}}
    if (predicted := run.parent / "predicted.jsonl").is_file():
        contents["predicted.jsonl"] = predicted.read_bytes()
    contents.pop("adapter/README.md", None)  # the model card has dates and timings
    return contents


def problems(run: Path, reference: dict[str, Any], finished: list[subprocess.CompletedProcess[str]]) -> Iterator[str]:
    """Yield what is wrong after commands have run: a traceback, an unclear refusal or a file that differs."""
    for process in finished:
        if "Traceback" in process.stderr:
            yield f"traceback: {process.stderr[-500:]}"
        elif process.returncode and not any(words in process.stderr for words in REFUSALS):
            yield f"exit code {process.returncode}: {process.stderr[-300:]}"
    for name, content in results(run).items():
        if name in reference and content != reference[name]:
            yield f"{name} differs"
    yield from (f"{path} is a leftover" for path in run.parent.rglob(".*.partial"))


def run_pair(run: Path, names: tuple[str, str], recipe: str) -> list[subprocess.CompletedProcess[str]]:
    """Start two commands at the same time and wait for both."""
    lines = [commands(run, recipe)[name] for name in names]
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for line in lines]
    outputs = [process.communicate() for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def kill_and_repeat(command: list[str], moment: float) -> bool:
    """Kill a command after `moment` seconds and run it again. Return whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    complete(command)
    return True


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.yaml", help="recipe of the runs")
    parser.add_argument("--kills", type=int, default=20, help="number of kills, half of them of each command")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments")
    add_out_flag(parser)
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        original = Path(scratch) / "original" / "run"
        original.parent.mkdir()
        rows = Path("toolkit/embedded/nli_fr_rows/dev.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (original.parent / "rows.jsonl").write_text("".join(rows[:120]), encoding="utf-8")
        lines = commands(original, arguments.recipe)
        complete(lines["train"])
        complete([*lines["evaluate"], "--model", "base"])
        seconds = {}
        for name in ("evaluate", "export", "predict", "compare"):
            start = time.monotonic()
            complete(lines[name])
            seconds[name] = time.monotonic() - start
        reference, entries = results(original), []

        def copy(name: str) -> Path:
            shutil.copytree(original.parent, Path(scratch) / name)
            return Path(scratch) / name / "run"

        for pair in combinations_with_replacement(lines, 2):
            run = copy("-".join(pair))
            finished = run_pair(run, pair, arguments.recipe)
            refused = sum(process.returncode != 0 for process in finished)
            outcome = f"{2 - refused} done, {refused} refused"
            found = list(problems(run, reference, finished))
            entries.append({"commands": " + ".join(pair), "outcome": outcome, "problems": found})
        moments = random.Random(arguments.seed)
        for name in ("evaluate", "predict"):
            run = copy(f"killed-{name}")
            kills = 0
            while kills < arguments.kills // 2:
                # The first third of a command is start-up.
                kills += kill_and_repeat(
                    commands(run, arguments.recipe)[name], moments.uniform(seconds[name] / 3, seconds[name])
                )
            found = list(problems(run, reference, []))
            entries.append({"commands": f"{kills} kills of {name}", "outcome": "each repeated", "problems": found})
    report("Interference", entries, arguments.out, table)


def table(entries: list[dict[str, Any]]) -> Table:
    """Return one table row per pair of commands and per killed command."""
    return [["commands", "outcome", "problems"]] + [
        [entry["commands"], entry["outcome"], "; ".join(entry["problems"]) or "none"] for entry in entries
    ]


if __name__ == "__main__":
    main()
