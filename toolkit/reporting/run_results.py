"""A run's results beside its evaluations, read back: the loss of each step, and the parity of exported files."""

import json
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_folder import RunFolder, read_object
from toolkit.runs.trained_run import TrainedRun


def check_report_files(run: TrainedRun) -> None:
    """Refuse damaged files that a report shows next to evaluations, before hours of scoring rather than after.

    Raises:
        RunError: run.json is missing or damaged, or parity.json is damaged.
    """
    if not run.record:
        read_object(run.folder.run_json)
    load_parity(run.folder)


def load_losses(run: RunFolder) -> tuple[list[int], list[float]]:
    """Steps and losses of train_log.jsonl, without the steps whose loss was no number; empty where there is no log."""
    if not run.train_log.is_file():
        return [], []
    steps, losses = [], []
    for line in run.train_log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["loss"] is not None:
                steps.append(int(record["step"]))
                losses.append(float(record["loss"]))
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was killed may be cut
    return steps, losses


def load_parity(run: RunFolder) -> dict[str, Any] | None:
    """What gguf/parity.json holds; None where there is none."""
    if not run.parity.is_file():
        return None
    parity = read_object(run.parity)
    models = parity.get("models")
    if not isinstance(models, list) or not all(isinstance(entry, dict) for entry in models):
        raise RunError(f"{run.parity} lists no models, so it is damaged.", hint="Export again, or remove it.")
    return parity
