"""Results of a run other than its evaluations: the loss of each step, and the scores of the dev rows."""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class DevScores:
    """The metrics of the dev rows after an optimizer step; None instead of NaN."""

    step: int
    accuracy: float | None
    macro_f1: float | None
    nll: float | None


def load_losses(run: RunFolder) -> tuple[list[int], list[float]]:
    """Return steps and losses from train_log.jsonl without NaN losses; both are empty if there is no log."""
    finite = [record for record in _log_records(run) if record["loss"] is not None]  # NaN and inf are recorded as null
    return [int(record["step"]) for record in finite], [float(record["loss"]) for record in finite]


def load_dev_scores(run: RunFolder) -> list[DevScores]:
    """Return the validations in train_log.jsonl, in the order of their steps."""
    names = [field.name for field in fields(DevScores) if field.name != "step"]
    return [
        DevScores(int(record["step"]), **{name: record.get(f"dev_{name}") for name in names})
        for record in _log_records(run)
        if "dev_nll" in record
    ]


def _log_records(run: RunFolder) -> list[dict[str, Any]]:
    if not run.train_log.is_file():
        return []
    records = []
    for line in run.train_log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            int(record["step"]), float(record["loss"] or 0)
        except (ValueError, KeyError, TypeError):
            continue  # a killed run can leave an incomplete last line
        records.append(record)
    return records
