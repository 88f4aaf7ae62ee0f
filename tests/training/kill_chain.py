"""Train in forked processes that are killed at chosen moments, each going on from what the last one left.

`python tests/training/kill_chain.py RECIPE FOLDER` trains FOLDER/whole at one go and FOLDER/killed in the chain, and
prints how each process ended. Packages are imported once; nothing has computed yet when a process is forked.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit.data.splits import load_splits
from toolkit.recipe.loading import load_recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training import atomic_checkpoints, callbacks, checkpoints, fit, training_run
from toolkit.training.trainer import ClassifierTrainer
from toolkit.training.training_run import TrainingOptions, train_run


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(module: Any, name: str, count: int, then: Callable[..., Any] = die) -> None:
    """Let `module.name` work `count` times, and the next time do something else."""
    work, calls = getattr(module, name), iter(range(count))
    setattr(module, name, lambda *a, **k: work(*a, **k) if next(calls, None) is not None else then(*a, **k))


def tear_a_file(path: Path, *_: Any) -> None:
    path.write_bytes(b"half a fi")
    die()


def tear_a_line(entry: dict[str, Any]) -> str:
    log = Path(sys.argv[2]) / "killed" / "train_log.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"step": 6, "lo')
    die()
    return ""


MOMENTS: dict[str, Callable[[], None]] = {
    "before run.json is there": lambda: after(
        RunFolder, "begin", 0, lambda run, _, recipe, **__: begin_half(run, recipe)
    ),
    "inside the second step": lambda: after(ClassifierTrainer, "summed_loss", 1),
    "in the first checkpoint": lambda: after(atomic_checkpoints, "save_trained", 0, tear_a_file),
    "before older checkpoints go": lambda: after(atomic_checkpoints, "keep_newest", 1),
    "in a line of the log": lambda: after(callbacks, "_log_line", 5, tear_a_line),
    "before the third checkpoint is renamed": lambda: after(checkpoints, "flush_to_disk", 0),
    "in the adapter": lambda: after(fit, "flush_to_disk", 0),
    "when all is done but the last word": lambda: after(training_run, "_finish", 0),
}


def begin_half(run: RunFolder, recipe: str) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.recipe_file.write_text(recipe, encoding="utf-8")
    (run.path / f".run.json.{os.getpid()}.partial").write_text("{", encoding="utf-8")
    die()


def in_a_child(path: Path, prepare: Callable[[], None] | None, *, resume: bool) -> int:
    """How a forked process ended that trains into `path`: its exit code, or minus the signal that ended it."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    torch.set_num_threads(1)  # renews its pools, which threads that load weights would otherwise do at the same time
    try:
        if prepare:
            prepare()
        train_run(load_recipe(Path(sys.argv[1])), RunFolder(path), TrainingOptions(resume=resume))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)  # before anything computes: a forked process has no other threads
    load_splits(load_recipe(Path(sys.argv[1])))  # the generated rows are kept, and every process needs them
    folder = Path(sys.argv[2])
    ends = {"whole": in_a_child(folder / "whole", None, resume=False)}
    for number, (moment, prepare) in enumerate(MOMENTS.items()):
        ends[moment] = in_a_child(folder / "killed", prepare, resume=number > 0)
    ends["the last start"] = in_a_child(folder / "killed", None, resume=True)
    print(json.dumps(ends))
