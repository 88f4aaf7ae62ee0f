"""Kill training and export at random moments, restart them, and compare the files with those of uninterrupted runs.

    python benchmarks/kills.py --kills 35 --export-kills 20 --out /tmp/kills

The real scripts run as separate processes, receive SIGKILL and are started again, training with --resume. Three out of
four kills happen after the first output has appeared (a log line, a merged model), the others during startup.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from side_by_side import Table, add_out_flag, report

OVERRIDES = [
    "training.max_steps=60", "training.save_steps=1", "training.batch_size=6", "data.train.limit=120",
    "data.eval.limit=60",
]  # fmt: skip
# The GGUF file contains the name of the run folder, so the killed run and the reference run use the same name.
RUN = "run"
_START_TIMEOUT_S = 600


class Killer:
    """An object that starts commands and kills them at random moments.

    Args:
        seed: The seed of the random moments.
        folder: The run folder, whose files show the progress of a command.
        log: The file to which the commands' output is appended.
    """

    def __init__(self, seed: int, folder: Path, log: Path) -> None:
        self.activities: Counter[str] = Counter()
        self.kills = 0
        self._random = random.Random(seed)
        self._folder = folder
        self._log = log

    def start_and_kill(
        self, command: Sequence[object], has_started: Callable[[], bool], startup_s: float, window_s: float
    ) -> bool:
        """Start a command and kill it. Return whether it finished successfully before it could be killed."""
        with self._log.open("ab") as log:
            process = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
        if self._random.random() < 0.25:
            delay = self._random.uniform(0, startup_s)
        else:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not has_started() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            delay = self._random.uniform(0, window_s)
        try:
            if process.wait(delay):
                sys.exit(f"{command} failed; see {self._log}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills += 1
            self.activities[self._describe_activity(has_started())] += 1
            return False
        return True

    def _describe_activity(self, has_started: bool) -> str:
        """Describe the activity of the killed process, based on the temporary files that it left."""
        # Every file is written under a hidden name that ends in .partial and renamed when it is complete.
        for partial in self._folder.rglob(".*.partial"):
            return f"writing {partial.name.split('.')[1].split('-')[0]}"
        return "at work" if has_started else "starting"


def training_command(recipe: str, folder: Path) -> list[object]:
    """Return the command that trains into a folder, or resumes if the folder holds a run."""
    overrides = [argument for override in OVERRIDES for argument in ("--set", override)]
    resume = ["--resume"] if (folder / "recipe.yaml").is_file() else []
    return ["scripts/sft.py", recipe, *overrides, "--output-dir", folder, *resume]


def export_command(folder: Path) -> list[object]:
    """Return the command that exports a run."""
    # After so few training steps some rows are near ties, so the parity gate has to accept a low agreement.
    return ["scripts/export_gguf.py", folder, "--verify", "60", "--min-agreement", "0.5"]


def run_to_completion(command: Sequence[object]) -> float:
    """Run a command without interruption and return the seconds it took."""
    start = time.monotonic()
    finished = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{command} failed:\n{finished.stderr[-3000:]}")
    return time.monotonic() - start


def written_since(moment: float, folder: Path, *patterns: str) -> Callable[[], bool]:
    """Return a function that reports whether a matching file has been written since `moment`."""

    def modified_at(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # renamed between glob and stat
            return 0.0

    return lambda: any(modified_at(path) > moment for pattern in patterns for path in folder.glob(pattern))


def kill_training(recipe: str, folder: Path, kills: int, seed: int, log: Path) -> tuple[Counter[str], list[Path]]:
    """Start training runs and kill them `kills` times in total.

    Each run is resumed after every kill. It ends when a start finishes before its kill, or when all kills are used up.

    Returns:
        The number of kills per activity, and the folders of the finished runs.
    """
    activities: Counter[str] = Counter()
    folders: list[Path] = []
    while activities.total() < kills:
        folders.append(folder / f"killed-{len(folders) + 1}" / RUN)
        killer = Killer(seed + len(folders), folders[-1], log)
        while activities.total() + killer.kills < kills:
            has_started = written_since(time.time(), folders[-1], "train_log.jsonl")
            if killer.start_and_kill(training_command(recipe, folders[-1]), has_started, startup_s=10, window_s=4):
                break
            print(f"run {len(folders)}, kill {killer.kills}: {dict(killer.activities)}", file=sys.stderr, flush=True)
        run_to_completion(training_command(recipe, folders[-1]))
        activities += killer.activities
    return activities, folders


def kill_export(folder: Path, reference: Path, kills: int, seed: int, log: Path) -> tuple[Counter[str], int]:
    """Kill exports of a trained run `kills` times, then let one finish.

    Returns:
        The number of kills per activity, and the number of half-written files that had a final name.
    """
    killer, half_written = Killer(seed, folder, log), 0
    while killer.kills < kills:
        has_started = written_since(time.time(), folder, ".merged.*.partial", "merged")
        killer.start_and_kill(export_command(folder), has_started, startup_s=10, window_s=5)
        contents = read_exported_files(folder)
        # An export in progress removes the results of an earlier one from parity.json, so it only has to be valid.
        json.loads(contents.pop("parity.json", b"{}"))
        half_written += len(differing_files(contents, read_exported_files(reference), missing_counts=False))
        print(
            f"export, kill {killer.kills}: {dict(killer.activities)}, half-written: {half_written}",
            file=sys.stderr,
            flush=True,
        )
    run_to_completion(export_command(folder))
    return killer.activities, half_written


def read_trained_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the adapter's files, and the training log without its timings."""
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    log = "".join(json.dumps({**row, "seconds": None}) for row in rows)
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()} | {"log": log.encode()}


def read_exported_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the merged model's files and of the gguf folder."""
    files = [path for subfolder in ("merged", "gguf") for path in (folder / subfolder).glob("[!.]*")]
    return {path.name: path.read_bytes() for path in files}


def differing_files(
    contents: dict[str, bytes], expected: dict[str, bytes], *, missing_counts: bool = True
) -> list[str]:
    """Return the names of the files that differ."""
    names = contents.keys() | expected.keys() if missing_counts else contents.keys()
    return sorted(name for name in names if contents.get(name) != expected.get(name))


def main() -> None:
    """Run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/quickstart.yaml")
    parser.add_argument("--kills", type=int, default=35, help="number of times to kill training")
    parser.add_argument("--export-kills", type=int, default=20, help="number of times to kill the export")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments")
    add_out_flag(parser)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "kills.log"
    with TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference" / RUN
        seconds = {
            "training": run_to_completion(training_command(arguments.recipe, reference)),
            "export": run_to_completion(export_command(reference)),
        }
        activities, killed = kill_training(arguments.recipe, Path(scratch), arguments.kills, arguments.seed, log)
        differing = [differing_files(read_trained_files(folder), read_trained_files(reference)) for folder in killed]
        export_activities, half_written = kill_export(killed[0], reference, arguments.export_kills, arguments.seed, log)
        export_differing = differing_files(read_exported_files(killed[0]), read_exported_files(reference))
        results = [
            {"command": "training", "activities": activities, "runs": len(killed),
             "different_files": [name for names in differing for name in names], "half_written_files": None,
             "files": sorted(read_trained_files(reference))},
            {"command": "export", "activities": export_activities, "runs": 1, "different_files": export_differing,
             "half_written_files": half_written, "files": sorted(read_exported_files(reference))},
        ]  # fmt: skip
    results = [{**result, "seconds": round(seconds[result["command"]], 1)} for result in results]
    facts = {"recipe": arguments.recipe, "set": OVERRIDES, "seed": arguments.seed}
    report("Kills at random moments", results, arguments.out, table, **facts)


def table(commands: list[dict[str, Any]]) -> Table:
    """Return one table row per command."""
    return [
        ["command", "kills", "activity when killed", "files that differ at the end", "half-written files",
         "seconds without kills"]
    ] + [
        [
            command["command"],
            str(sum(command["activities"].values())),
            ", ".join(f"{count} {activity}" for activity, count in Counter(command["activities"]).most_common()),
            str(len(command["different_files"])),
            "not checked" if command["half_written_files"] is None else str(command["half_written_files"]),
            f"{command['seconds']:.0f}",
        ]
        for command in commands
    ]  # fmt: skip


if __name__ == "__main__":
    main()
