"""Results of a run other than its evaluations: the loss of each step."""

import json
from collections.abc import Collection
from pathlib import Path

from toolkit.runs.parity_record import find_gguf_changes, load_parity
from toolkit.runs.run_folder import RunFolder, read_json_object
from toolkit.runs.trained_run import TrainedRun


def check_report_files(run: TrainedRun, *, replacing: Collection[Path] = ()) -> None:
    """Check the files that a report needs besides evaluations, before hours of scoring rather than after.

    Args:
        run: The run.
        replacing: GGUF files that the caller writes again, so that their present state does not matter.

    Raises:
        RunError: If run.json is missing or damaged, or parity.json is damaged.
        SealError: If the training log, parity.json or a GGUF file has changed.
    """
    if not run.record:
        read_json_object(run.folder.run_json)
    run.verify_train_log()
    if parity := load_parity(run):
        run.refuse_changes(find_gguf_changes(run, parity, replacing), affects_model=False)


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
