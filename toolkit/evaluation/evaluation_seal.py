"""The seal of an evaluation: metrics and predictions are those that were written, by the run that they are in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import SealError
from toolkit.runs.digests import file_digest
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.seal import Seal, is_content_intact


def find_evaluation_changes(
    folder: Path, metrics: Mapping[str, Any], adapter_sha256: str | None, cache_folder: Path | None = None
) -> list[str]:
    """Return a sentence if an evaluation differs from what was written, else an empty list.

    Args:
        folder: The folder of the evaluation.
        metrics: The contents of its metrics.json.
        adapter_sha256: The digest that identifies its run, or None for a run without a seal.
        cache_folder: The run folder, for the cache of digests.
    """
    seal, predictions = metrics.get("seal"), folder / "predictions.jsonl"
    if seal is None:  # from before evaluations were sealed, so a sealed run cannot have made it
        return [f"{folder / 'metrics.json'} has no seal, so it was not made by this run."] if adapter_sha256 else []
    if not is_content_intact(metrics):
        return [f"{folder / 'metrics.json'} has changed since it was written."]
    if adapter_sha256 and seal.get("adapter") != adapter_sha256:
        return [f"{folder / 'metrics.json'} was measured with another adapter."]
    if not predictions.is_file():
        return [f"{predictions} is missing."]
    if file_digest(predictions, cache_folder) != seal.get("predictions"):
        return [f"{predictions} has changed since it was written."]
    return []


def check_evaluation(folder: Path, metrics: Mapping[str, Any], hint: str) -> None:
    """Check an evaluation that is read without its run, for a comparison.

    Raises:
        SealError: If it has changed since it was made, or was not made by the run that it is in.
    """
    folder = folder.resolve()
    # An evaluation can be copied out of its run. Then only its own digests can be checked.
    run = folder.parent.parent if folder.parent.name == "eval" else None
    is_in_run = run is not None and (run / "run.json").is_file()
    seal = Seal.from_record(read_json_object(run / "run.json")) if run and is_in_run else None
    if changes := find_evaluation_changes(folder, metrics, seal.adapter_sha256 if seal else None, run):
        raise SealError(changes[0], hint=f"Restore the original from a copy. {hint}")
