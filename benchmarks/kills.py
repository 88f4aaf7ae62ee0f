"""Kill training and export at random moments, go on from what is left, and compare bytes with a run that was let be.

    python benchmarks/kills.py --kills 35 --export-kills 20 --out /tmp/kills

The real scripts run as processes of their own and end by SIGKILL; each is started again, training with --resume.
Three kills of four strike behind a sign of work (the run began, merging began), the others as packages are imported.
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

from side_by_side import report

SMALLER = [
    "training.max_steps=60", "training.save_steps=1", "training.batch_size=6", "data.train.limit=120",
    "data.eval.limit=60",
]  # fmt: skip
RUN = "run"  # a folder's name stands in its GGUF: both runs have the same
_LONGEST_S = 600


class Killer:
    """Starts commands and kills them.

    Args:
        seed: of the moments.
        folder: the run whose files tell how far a command is.
        log: where the commands' output goes.
    """

    def __init__(self, seed: int, folder: Path, log: Path) -> None:
        self.moments: Counter[str] = Counter()
        self.kills = 0
        self._random = random.Random(seed)
        self._folder = folder
        self._log = log

    def strike(self, command: Sequence[object], began: Callable[[], bool], startup_s: float, window_s: float) -> bool:
        """Start a command and kill it; whether it ended well before it could be killed."""
        with self._log.open("ab") as log:
            process = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
        if self._random.random() < 0.25:
            delay = self._random.uniform(0, startup_s)
        else:
            deadline = time.monotonic() + _LONGEST_S
            while not began() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            delay = self._random.uniform(0, window_s)
        try:
            if process.wait(delay):
                sys.exit(f"{command} failed; see {self._log}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills += 1
            self.moments[self._moment(began())] += 1
            return False
        return True

    def _moment(self, began: bool) -> str:
        """What the killed process was at, told by what it left half written."""
        for left in self._folder.rglob(".*.partial"):
            return f"writing {left.name.split('.')[1].split('-')[0]}"
        return "at work" if began else "starting"


def train(recipe: str, folder: Path) -> list[object]:
    """The command that trains into a folder; it goes on with what is there."""
    overrides = [argument for one in SMALLER for argument in ("--set", one)]
    again = ["--resume"] if (folder / "recipe.yaml").is_file() else []
    return ["scripts/sft.py", recipe, *overrides, "--output-dir", folder, *again]


def export(folder: Path) -> list[object]:
    """The command that exports a run; of so short a training, some answers are near ties."""
    return ["scripts/export_gguf.py", folder, "--verify", "60", "--min-agreement", "0.5"]


def undisturbed(command: Sequence[object]) -> float:
    """Run a command to its end; its seconds."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-3000:]}")
    return time.monotonic() - start


def newer_than(moment: float, folder: Path, *patterns: str) -> Callable[[], bool]:
    """Whether one of these was written to since."""

    def written(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # renamed in between
            return 0.0

    return lambda: any(written(path) > moment for pattern in patterns for path in folder.glob(pattern))


def kill_training(recipe: str, place: Path, kills: int, seed: int, log: Path) -> tuple[Counter[str], list[Path]]:
    """Kill runs until there were `kills`; each run is a chain of starts, of which the last one is let be."""
    moments: Counter[str] = Counter()
    folders: list[Path] = []
    while moments.total() < kills:
        folders.append(place / f"killed-{len(folders) + 1}" / RUN)
        killer = Killer(seed + len(folders), folders[-1], log)
        while moments.total() + killer.kills < kills:
            began = newer_than(time.time(), folders[-1], "train_log.jsonl")
            if killer.strike(train(recipe, folders[-1]), began, startup_s=10, window_s=4):
                break
            print(f"run {len(folders)}, kill {killer.kills}: {dict(killer.moments)}", file=sys.stderr, flush=True)
        undisturbed(train(recipe, folders[-1]))
        moments += killer.moments
    return moments, folders


def kill_export(folder: Path, whole: Path, kills: int, seed: int, log: Path) -> tuple[Counter[str], int]:
    """Kill exports of a trained run; how many files were found half written under their own name."""
    killer, torn = Killer(seed, folder, log), 0
    while killer.kills < kills:
        began = newer_than(time.time(), folder, ".merged.*.partial", "merged")
        killer.strike(export(folder), began, startup_s=10, window_s=5)
        found = exported(folder)
        json.loads(found.pop("parity.json", b"{}"))  # an export in progress forgets what an earlier one found
        torn += len(different(found, exported(whole), missing_is_different=False))
        print(f"export, kill {killer.kills}: {dict(killer.moments)}, torn: {torn}", file=sys.stderr, flush=True)
    undisturbed(export(folder))
    return killer.moments, torn


def trained(folder: Path) -> dict[str, bytes]:
    """The adapter's files, and the log without its timings."""
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    log = "".join(json.dumps({**row, "seconds": None}) for row in rows)
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()} | {"log": log.encode()}


def exported(folder: Path) -> dict[str, bytes]:
    """The merged model's files and those beside the GGUF."""
    files = [path for part in ("merged", "gguf") for path in (folder / part).glob("[!.]*")]
    return {path.name: path.read_bytes() for path in files}


def different(found: dict[str, bytes], expected: dict[str, bytes], *, missing_is_different: bool = True) -> list[str]:
    """The files that differ."""
    names = found.keys() | expected.keys() if missing_is_different else found.keys()
    return sorted(name for name in names if found.get(name) != expected.get(name))


def main() -> None:
    """Parse, run, report."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--recipe", default="recipes/quickstart.yaml")
    flags.add_argument("--kills", type=int, default=35, help="of training")
    flags.add_argument("--export-kills", type=int, default=20)
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--out", type=Path, required=True, help="where OUT.md, OUT.json and OUT.log are written")
    arguments = flags.parse_args()
    log = arguments.out.with_suffix(".log")
    with TemporaryDirectory() as place:
        whole = Path(place) / "whole" / RUN
        seconds = {"training": undisturbed(train(arguments.recipe, whole)), "export": undisturbed(export(whole))}
        moments, killed = kill_training(arguments.recipe, Path(place), arguments.kills, arguments.seed, log)
        wrong = [different(trained(folder), trained(whole)) for folder in killed]
        export_moments, torn = kill_export(killed[0], whole, arguments.export_kills, arguments.seed, log)
        export_wrong = different(exported(killed[0]), exported(whole))
        results: dict[str, Any] = {
            "training": {"moments": moments, "runs": len(killed), "different_files": wrong,
                         "files": sorted(trained(whole))},
            "export": {"moments": export_moments, "different_files": export_wrong, "torn_files": torn,
                       "files": sorted(exported(whole))},
        }  # fmt: skip
    rows = [
        row("training", moments, sum(map(len, wrong)), "not looked for", seconds["training"]),
        row("export", export_moments, len(export_wrong), str(torn), seconds["export"]),
    ]
    header = ["command", "kills", "moments", "files that differ at the end", "half-written files seen", "s undisturbed"]
    facts = {"recipe": arguments.recipe, "set": SMALLER, "seed": arguments.seed, "seconds": seconds}
    report("Kills at random moments", header, rows, {**facts, "results": results}, arguments.out)


def row(name: str, moments: Counter[str], differ: int, torn: str, seconds: float) -> list[str]:
    """A line of the table."""
    told = ", ".join(f"{count} {moment}" for moment, count in moments.most_common())
    return [name, str(moments.total()), told, str(differ), torn, f"{seconds:.0f}"]


if __name__ == "__main__":
    main()
