"""The seal of an evaluation: metrics and predictions are those that were written, by the run that they are in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import SealError
from toolkit.runs.digests import file_digest
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.run_paths import check_no_links
from toolkit.runs.seal import Seal, find_accepted_changes, is_content_intact
from toolkit.runs.trained_run import TrainedRun


def verify_evaluation(run: TrainedRun, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Check that an evaluation in a run is the one that was written there.

    Args:
        run: The run.
        folder: The folder of the evaluation.
        metrics: The contents of its metrics.json.

    Raises:
        SealError: If it has changed, or was written under another name or by another run.
    """
    changes = _find_changes(folder, metrics, run.seal, run.path)
    hint = f"Evaluate again, delete {folder}, or pass accept_changes=True to show it nevertheless."
    run.refuse_changes(changes, hint=hint, affects_model=False)


def check_evaluation(folder: Path, metrics: Mapping[str, Any], hint: str) -> list[str]:
    """Check an evaluation that is read without its run, for a comparison.

    Returns:
        Changes of the model that a user had accepted for this evaluation.

    Raises:
        SealError: If it has changed since it was made, or was not made by the run that it is in.
    """
    if folder.parent.name == "eval":
        check_no_links([folder])
    folder = folder.resolve()
    # An evaluation can be copied out of its run. Then only its own digests can be checked.
    run = folder.parent.parent if folder.parent.name == "eval" else None
    is_in_run = run is not None and (run / "run.json").is_file()
    seal = Seal.from_record(read_json_object(run / "run.json")) if run and is_in_run else None
    if changes := _find_changes(folder, metrics, seal, run):
        raise SealError(changes[0], hint=f"Restore the original from a copy. {hint}")
    return find_accepted_changes(folder / "metrics.json", metrics)


def _find_changes(folder: Path, metrics: Mapping[str, Any], run: Seal | None, cache_folder: Path | None) -> list[str]:
    """Return a sentence if an evaluation differs from what was written, else an empty list.

    Args:
        folder: The folder of the evaluation.
        metrics: The contents of its metrics.json.
        run: The seal of its run, or None for a run without a seal, or an evaluation outside its run.
        cache_folder: The run folder, for the cache of digests.
    """
    seal, path, predictions = metrics.get("seal"), folder / "metrics.json", folder / "predictions.jsonl"
    # From before evaluations were sealed with their name, so a sealed run cannot have made it.
    if seal is None or (isinstance(seal, dict) and "name" not in seal):
        return [f"{path} has no seal, so it was not made by this run."] if run else []
    if not is_content_intact(metrics):
        return [f"{path} has changed since it was written."]
    # A changed adapter that was accepted has another digest. Such an evaluation says so itself.
    # A GGUF file of unknown origin has none.
    if run and seal.get("adapter") not in (run.adapter_sha256, None) and not metrics.get("accepted_changes"):
        return [f"{path} was measured with another adapter."]
    if run and seal.get("name") != folder.name:
        return [f"{path} was written as the evaluation {seal.get('name')!r}, so its folder must have that name."]
    if not predictions.is_file():
        return [f"{predictions} is missing."]
    if file_digest(predictions, cache_folder) != seal.get("predictions"):
        return [f"{predictions} has changed since it was written."]
    return []
