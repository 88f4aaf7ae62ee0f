"""Results of a run other than its evaluations: the loss of each step and the parity of exported files."""

import json
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_folder import RunFolder, read_json_object
from toolkit.runs.trained_run import TrainedRun


def check_report_files(run: TrainedRun) -> None:
    """Check the files that a report needs besides evaluations, before hours of scoring rather than after.

    Raises:
        RunError: If run.json is missing or damaged, or parity.json is damaged.
    """
    if not run.record:
        read_json_object(run.folder.run_json)
    load_parity(run.folder)


def load_losses(run: RunFolder) -> tuple[list[int], list[float]]:
    """Return steps and losses from train_log.jsonl without NaN losses; both are empty if there is no log."""
    if not run.train_log.is_file():
        return [], []
    steps, losses = [], []
    for line in run.train_log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["loss"] is not None:  # NaN and inf are recorded as null
                steps.append(int(record["step"]))
                losses.append(float(record["loss"]))
        except (ValueError, KeyError, TypeError):
            continue  # a killed run can leave an incomplete last line
    return steps, losses


def load_parity(run: RunFolder) -> dict[str, Any] | None:
    """Return the content of gguf/parity.json, or None if the file does not exist."""
    if not run.parity.is_file():
        return None
    parity = read_json_object(run.parity)
    models = parity.get("models")
    if not isinstance(models, list) or not all(isinstance(entry, dict) for entry in models):
        raise RunError(f"{run.parity} is damaged: it has no list of models.", hint="Export again, or delete it.")
    return parity
