"""gguf/parity.json: the record of exported files and of their agreement with the adapter."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.digests import file_digest
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.seal import add_content_seal, find_accepted_changes, is_content_intact
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

logger = logging.getLogger(__name__)

_EXPORT_HINT = "Export all files again, delete it, or pass accept_changes=True to use it nevertheless."


def load_parity(run: TrainedRun) -> dict[str, Any] | None:
    """Return the contents of parity.json, or None if the file does not exist.

    Results of a changed model that was accepted then, but not now, count as missing.

    Raises:
        RunError: If it is damaged.
        SealError: If it has changed since it was written, or belongs to another adapter.
    """
    path = run.folder.parity
    if not os.path.lexists(path):
        return None
    parity = read_json_object(path)
    models = parity.get("models")
    if not isinstance(models, list) or not all(isinstance(entry, dict) for entry in models):
        raise RunError(f"{path} is damaged: it has no list of models.", hint="Export again, or delete it.")
    if run.seal is None:
        return parity
    changes = []
    if not is_content_intact(parity):
        changes = [f"{path} has changed since it was written."]
    elif accepted := find_accepted_changes(path, parity):
        if not run.accept_changes:
            logger.warning("WARNING: %s It is left out.", accepted[0])
            return None
    elif run.seal and _seal(parity).get("adapter") != run.seal.adapter_sha256:
        changes = [f"{path} belongs to another adapter."]
    run.refuse_changes(changes, hint=_EXPORT_HINT, affects_model=False)
    return parity


def load_existing_parity(run: TrainedRun) -> dict[str, Any] | None:
    """Return parity.json without the entries of GGUF files that have been deleted; see `load_parity`."""
    if (parity := load_parity(run)) is None:
        return None
    models = [entry for entry in parity["models"] if not entry.get("file") or (run.path / entry["file"]).is_file()]
    return {**parity, "models": models}


def write_parity(run: TrainedRun, record: dict[str, Any]) -> None:
    """Write parity.json with the digests of its GGUF files.

    A file of an earlier export keeps its recorded digest, so that a change since then is not covered up.
    """
    earlier = recorded_digests(load_parity(run) or {})
    names = [str(entry["file"]) for entry in record["models"] if entry.get("file")]
    digests = {name: earlier.get(name) or file_digest(run.path / name, run.path) for name in names}
    write_json(run.folder.parity, add_content_seal(record, run.adapter_sha256, files=digests))


def forget_files(run: TrainedRun, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Remove files that are about to be replaced from parity.json, and return the entries of the other files.

    So a killed export leaves no results that describe other files than those that exist.
    """
    if (record := load_parity(run)) is None:
        run.folder.parity.unlink(missing_ok=True)
        return []
    existing = [entry for entry in record["models"] if entry.get("file") and (run.path / entry["file"]).is_file()]
    kept = [entry for entry in existing if run.path / entry["file"] not in files]
    write_parity(run, {**record, "models": kept})
    return kept


def recorded_digests(parity: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the GGUF files in a parity record, by path within the run."""
    files = _seal(parity).get("files")
    return files if isinstance(files, dict) else {}


def find_gguf_changes(run: TrainedRun, parity: dict[str, Any], ignored: Collection[Path] = ()) -> list[str]:
    """Return a sentence for each existing GGUF file that has changed since it was compared with the adapter."""
    return [
        f"{run.path / name} has changed since it was exported."
        for name, digest in recorded_digests(parity).items()
        if run.path / name not in ignored
        and (run.path / name).is_file()
        and file_digest(run.path / name, run.path) != digest
    ]


def _seal(parity: dict[str, Any]) -> dict[str, Any]:
    seal = parity.get("seal")
    return seal if isinstance(seal, dict) else {}
