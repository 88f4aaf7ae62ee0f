"""Names of evaluation folders: two different evaluations never share one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.data.sources import slug
from toolkit.errors import RunError
from toolkit.evaluation.evaluation import changes_answers
from toolkit.evaluation.request import EvaluationRequest
from toolkit.recipe.data_section import Source
from toolkit.runs.run_folder import read_json_object

_MAX_SLUG_BYTES = 120


def distinct_folder(folder: Path, description: Mapping[str, Any]) -> Path:
    """Return the folder, or one with a digest in its name if an evaluation of other rows has it already.

    Files in different folders, such as v1/fr/test.csv and v2/fr/test.csv, can have the same short name.
    """

    def identity(metrics: Mapping[str, Any]) -> list[Any]:
        overrides = metrics.get("overrides") or {}
        source = (metrics.get("data") or {}).get("source")
        return [source, {key: value for key, value in sorted(overrides.items()) if changes_answers(key)}]

    if "@" not in folder.name or not (folder / "metrics.json").is_file():
        return folder
    ours = identity(description)
    try:
        is_same = identity(read_json_object(folder / "metrics.json")) == ours
    except RunError:  # a damaged evaluation is replaced
        is_same = True
    if is_same:
        return folder
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()[:6]
    return folder.with_name(f"{folder.name}-{digest}")


def evaluation_name(name: str, source: Source, overrides: dict[str, Any], request: EvaluationRequest) -> str:
    """Return the folder's name: the model's name, followed by all that differs from the run's own recipe and rows.

    Two different evaluations never share a folder.
    """
    changed = {key: value for key, value in overrides.items() if changes_answers(key)}
    mode, shots = request.mode, request.shots
    if not changed and mode == "constrained" and not shots:
        return name
    limit = source.limit if "data.eval.limit" in changed else None
    other_overrides = {key: value for key, value in changed.items() if not key.startswith("data.eval.")}
    # Arbitrary overrides do not fit into a name, so a short digest of them tells evaluations apart.
    digest = hashlib.sha256(json.dumps(other_overrides, sort_keys=True).encode()).hexdigest()[:6]
    data_name = slug(source)
    if len(data_name.encode()) > _MAX_SLUG_BYTES:  # file systems limit a name to 255 bytes
        data_name = f"{data_name[: _MAX_SLUG_BYTES // 4]}-{hashlib.sha256(data_name.encode()).hexdigest()[:8]}"
    name_parts = [f"{name}@{data_name}"] + ["free"] * (mode == "free") + [f"shots{shots}"] * (shots > 0)
    return "-".join(name_parts + [f"set{digest}"] * bool(other_overrides) + [f"limit{limit}"] * (limit is not None))
