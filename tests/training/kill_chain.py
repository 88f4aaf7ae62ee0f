"""Training in a chain of forked processes that are killed at chosen moments; each resumes what the last one left.

`python tests/training/kill_chain.py RECIPE FOLDER` trains FOLDER/uninterrupted without a kill and FOLDER/killed in the
chain, and prints the exit code of each process. Forking imports the packages only once. The parent process must not
compute anything before it forks, because threads do not survive a fork.
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


def replace_after(owner: Any, name: str, count: int, replacement: Callable[..., Any] = die) -> None:
    """Call the original `owner.name` for the first `count` calls, then `replacement`."""
    original, calls = getattr(owner, name), iter(range(count))
    setattr(owner, name, lambda *a, **k: original(*a, **k) if next(calls, None) is not None else replacement(*a, **k))


def die_in_file(path: Path, *_: Any) -> None:
    path.write_bytes(b"half a fi")
    die()


def die_in_log_line(entry: dict[str, Any]) -> str:
    log = Path(sys.argv[2]) / "killed" / "train_log.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"step": 6, "lo')
    die()
    return ""


MOMENTS: dict[str, Callable[[], None]] = {
    "before run.json exists": lambda: replace_after(
        RunFolder, "create", 0, lambda run, _, recipe, **__: die_in_run_json(run, recipe)
    ),
    "inside the second step": lambda: replace_after(ClassifierTrainer, "summed_loss", 1),
    "inside a file of the first checkpoint": lambda: replace_after(
        atomic_checkpoints, "save_trainable", 0, die_in_file
    ),
    "before older checkpoints are removed": lambda: replace_after(atomic_checkpoints, "keep_newest", 1),
    "inside a line of the log": lambda: replace_after(callbacks, "_log_line", 5, die_in_log_line),
    "before the third checkpoint is renamed": lambda: replace_after(checkpoints, "flush_to_disk", 0),
    "before the adapter is renamed": lambda: replace_after(fit, "flush_to_disk", 0),
    "before run.json says completed": lambda: replace_after(training_run, "_record_completion", 0),
}


def die_in_run_json(run: RunFolder, recipe: str) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.recipe_file.write_text(recipe, encoding="utf-8")
    (run.path / f".run.json.{os.getpid()}.partial").write_text("{", encoding="utf-8")
    die()


def train_in_child(path: Path, prepare: Callable[[], None] | None, *, resume: bool) -> int:
    """Train into `path` in a forked process, and return its exit code, or minus the signal that killed it."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # Recreate torch's thread pools after the fork. Otherwise each thread that loads weights would try to create them.
    torch.set_num_threads(1)
    try:
        if prepare:
            prepare()
        train_run(load_recipe(Path(sys.argv[1])), RunFolder(path), TrainingOptions(resume=resume))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)  # before anything computes, because a forked process has no other threads
    load_splits(load_recipe(Path(sys.argv[1])))  # fails here, before any fork, if the recipe or its rows cannot be read
    folder = Path(sys.argv[2])
    exit_codes = {"uninterrupted": train_in_child(folder / "uninterrupted", None, resume=False)}
    for number, (moment, prepare) in enumerate(MOMENTS.items()):
        exit_codes[moment] = train_in_child(folder / "killed", prepare, resume=number > 0)
    exit_codes["last start"] = train_in_child(folder / "killed", None, resume=True)
    print(json.dumps(exit_codes))
