"""Run folders: the names of their files, and run.json."""

import json
import math
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_paths import check_run_path
from toolkit.utils.atomic_io import remove, write_json, write_text

# torchrun and accelerate set RANK before the program starts, so it is known without importing torch.
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""Whether this process prints and writes the run's files. Of the processes that a launcher starts, only rank 0 does."""

_OBJECT_FIELDS = (
    "model", "data", "data.train", "data.dev", "data.calibration", "data.eval", "precision", "batching", "versions",
    "validation",
)  # fmt: skip


def finite_or_none(value: float | None) -> float | None:
    """Return the value, or None instead of NaN or infinity, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None


class RunFolder:
    """The folder of a run, with the paths of its files.

    Args:
        path: The folder, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.run_json = path / "run.json"
        self.adapter = path / "adapter"
        self.checkpoints = path / "checkpoints"
        self.train_log = path / "train_log.jsonl"
        self.merged = path / "merged"
        self.parity = path / "gguf" / "parity.json"
        self.eval = path / "eval"
        self.report = path / "report.html"
        self.model_card = self.adapter / "README.md"

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a finished run.

        Raises:
            RunError: If there is no such folder, or if it is not a finished run.
        """
        run = cls(path)
        if not path.is_dir():
            raise RunError(f"There is no run folder {path}.", hint="Train first: toolkit.train(RECIPE)")
        missing = [file.name for file in (run.recipe_file, run.run_json) if not file.is_file()]
        if not run.has_weights:
            missing.append("adapter/adapter_config.json")
        if missing:
            raise RunError(
                f"{path} is not a finished run: {missing[0]} is missing.",
                hint="Finish it with `toolkit.train(RECIPE, resume=True)`, or give another folder.",
            )
        return run

    def gguf(self, file_type: str) -> Path:
        """Return the path of the GGUF file of a file type (f16, q8_0, ...)."""
        # Resolved, because the path can be "." or end in "..", which have no name.
        return self.path / "gguf" / f"{self.path.resolve().name}-{file_type}.gguf"

    @property
    def is_taken(self) -> bool:
        """True if the path exists and is anything but an empty folder."""
        # A process that is killed while it writes its first file leaves a .partial file.
        return self.path.exists() and (
            not self.path.is_dir() or any(path.suffix != ".partial" for path in self.path.iterdir())
        )

    def check_not_taken(self, *, overwrite: bool) -> None:
        """Check that the folder is free, or is an older run that can be overwritten.

        Raises:
            RunError: If the folder is taken.
        """
        if not IS_MAIN_PROCESS:  # the main process can already have created the folder
            return
        check_run_path(self.path)
        if not self.is_taken:
            return
        if not overwrite:
            raise RunError(
                f"{self.path} already exists, and runs are not overwritten by default.",
                hint="Add resume=True to finish it, overwrite=True to replace it, or output_dir for another folder.",
            )
        if not self.run_json.is_file():
            raise RunError(
                f"{self.path} is not a run folder (it has no run.json), so it will not be overwritten.",
                hint="Choose another folder with output_dir.",
            )

    def create(self, record: dict[str, Any], recipe: str, *, replace: bool) -> None:
        """Create the folder with recipe.yaml and a run.json of status `running`.

        If the process is killed at any moment, the run can be resumed or started again (with `overwrite` if the folder
        contained a run).

        Args:
            record: Further fields of run.json.
            recipe: The text of recipe.yaml.
            replace: Whether to delete the files of an older run first.
        """
        if replace and self.path.is_dir():
            self._empty()
        self.path.mkdir(parents=True, exist_ok=True)
        # The recipe comes first: a folder with only recipe.yaml can be resumed, but one with only run.json cannot.
        write_text(self.recipe_file, recipe)
        write_json(self.run_json, {"status": "running", "started": utc_now(), **record})

    def _empty(self) -> None:
        """Delete all files except run.json."""
        # The order matters if the process is killed. With run.json the folder can still be overwritten, and without
        # recipe.yaml nobody can resume a half-deleted run.
        write_json(self.run_json, {"status": "overwritten"})
        self.recipe_file.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path != self.run_json:
                remove(path)

    @property
    def is_finished(self) -> bool:
        """True if training is complete and the adapter exists."""
        return self.record.get("status") == "completed" and self.has_weights

    @property
    def has_weights(self) -> bool:
        """True if the adapter exists: a LoRA adapter, or a complete encoder if all weights were trained."""
        return any((self.adapter / name).is_file() for name in ("adapter_config.json", "config.json"))

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json, empty if the run has not started.

        Raises:
            RunError: If run.json is damaged.
        """
        if not self.run_json.is_file():
            return {}
        try:
            record = read_json_object(self.run_json)
        except RunError as error:
            error.hint = "Restore it from a copy, or train again with overwrite=True or another output_dir."
            raise
        values = {**record, **{f"data.{name}": rows for name, rows in _items(record.get("data"))}}
        if invalid_fields := [key for key in _OBJECT_FIELDS if not isinstance(values.get(key), (dict, NoneType))]:
            raise RunError(
                f"{self.run_json} is damaged: {invalid_fields[0]!r} is not an object.",
                hint="Restore it from a copy.",
            )
        return record

    def update(self, **fields: Any) -> None:
        """Set fields of run.json and keep all others."""
        write_json(self.run_json, self.record | fields)


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        RunError: If the file does not exist or does not contain a JSON object.
    """
    hint = "Recreate it or remove it."
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise RunError(f"{path} is not a file.", hint=hint)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist.", hint="Choose a folder that contains it.") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text (byte {error.start}).", hint=hint) from error
    except RecursionError as error:
        raise RunError(f"{path} is nested too deeply.", hint=hint) from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}.", hint=hint) from error
    if not isinstance(value, dict):
        raise RunError(f"{path} contains a {type(value).__name__}, not an object.", hint=hint)
    return value


def check_is_evaluation(folder: Path) -> None:
    """Check that a folder contains an evaluation, as written by `run.evaluate()`.

    Raises:
        RunError: If metrics.json or predictions.jsonl is missing.
    """
    if (folder / "metrics.json").is_file() and (folder / "predictions.jsonl").is_file():
        return
    hint = "Create one with: run.evaluate()"
    if evaluations := sorted(path.parent for path in folder.glob("eval/*/metrics.json")):
        hint = f"Give one of its evaluations, e.g. {evaluations[0]}."
    raise RunError(f"{folder} is not an evaluation folder: metrics.json or predictions.jsonl is missing.", hint=hint)


def utc_now() -> str:
    """Return the current time in UTC as ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
