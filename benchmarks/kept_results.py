"""Results of runs whose folders no longer exist, so that one table can hold runs of several machines.

Their entries are in runs.json, and the codes of their predictions in predictions.npz, from which paired differences can
be computed: rows are identified by hashes, and no text is stored.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.evaluation.prediction_files import EvaluatedRows

Result = dict[str, Any]
Key = tuple[str, str, str]
"""Protocol, model and data."""
PREDICTIONS = "predictions.npz"
_SHARED = ("labels", "inputs", "gold", "row_hashes", "group_hashes")
"""What all evaluations on the same rows have in common."""


def stable_hashes(texts: list[tuple[str, ...]]) -> np.ndarray:
    """Return a 64-bit hash of each row, [rows]; unlike Python's, the same in each process."""
    digests = [hashlib.blake2b(json.dumps(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def save_rows(folder: Path, results: dict[Key, list[Result]]) -> None:
    """Write the predictions of all results."""
    arrays: dict[str, np.ndarray] = {}
    for (_, _, data), entries in results.items():
        for entry in entries:
            rows: EvaluatedRows = entry["_rows"]
            # A file of the same name with other rows is another data set.
            shared = f"{data}/{hashlib.blake2b(rows.row_hashes.tobytes(), digest_size=8).hexdigest()}"
            arrays[_name(entry)] = np.array(shared)
            arrays[f"{_name(entry)}/predicted"] = rows.predicted.astype(np.int8)
            values = (rows.labels, rows.inputs, rows.gold.astype(np.int8), rows.row_hashes, rows.group_hashes)
            arrays |= {f"{shared}/{name}": np.array(value) for name, value in zip(_SHARED, values, strict=True)}
    np.savez_compressed(folder / PREDICTIONS, **arrays)  # type: ignore[arg-type]


def add_kept(results: dict[Key, list[Result]], folder: Path) -> int:
    """Add the results in a folder that was written earlier, unless there are new ones of the same run.

    Returns:
        The number of results that were added.
    """
    if not (folder / PREDICTIONS).is_file():
        return 0
    arrays = np.load(folder / PREDICTIONS)
    added = 0
    for entry in json.loads((folder / "runs.json").read_text(encoding="utf-8")):
        entries = results.setdefault((entry["protocol"], entry["model"], entry["data"]), [])
        if entry["seed"] != "mean" and entry["seed"] not in {other["seed"] for other in entries}:
            shared = arrays[_name(entry)].item()
            if any(not np.array_equal(arrays[f"{shared}/row_hashes"], other["_rows"].row_hashes) for other in entries):
                raise SystemExit(f"{_name(entry)} in {folder} has other rows than the new runs. Use another --out.")
            labels, inputs, gold, row_hashes, group_hashes = (arrays[f"{shared}/{name}"] for name in _SHARED)
            entry["_rows"] = EvaluatedRows(
                folder,
                _name(entry),
                {"inputs": inputs.tolist()},
                tuple(labels.tolist()),
                gold,
                arrays[f"{_name(entry)}/predicted"],
                row_hashes,
                group_hashes,
            )
            entries.append(entry)
            entries.sort(key=lambda other: other["seed"] or 0)
            added += 1
    return added


def _name(entry: Result) -> str:
    return "/".join(str(entry[key]) for key in ("protocol", "model", "data", "seed"))
