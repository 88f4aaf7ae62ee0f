"""A run's folder: the names of its files, and its run.json."""

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from toolkit.errors import RunError
from toolkit.runs.run_paths import check_run_path
from toolkit.utils.atomic_io import remove, write_json, write_text

IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""Whether this process prints and writes the run's files, of those that a launcher started together."""

_SECTIONS = ("model", "data", "precision", "batching", "versions")


def finite(value: float | None) -> float | None:
    """The value for a JSON file, which has neither NaN nor infinity: null stands for both."""
    return value if value is not None and math.isfinite(value) else None


class RunFolder:
    """The files of one run, by name.

    Args:
        path: the folder; it need not exist yet.
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
        """The folder of a run that was trained.

        Raises:
            RunError: there is no such folder, or no finished run in it.
        """
        run = cls(path)
        if not path.is_dir():
            raise RunError(f"There is no run folder {path}.", hint="Train first: toolkit.train(RECIPE)")
        if not run.recipe_file.is_file() or not (run.adapter / "adapter_config.json").is_file():
            raise RunError(
                f"{path} holds no finished run: its recipe.yaml or its adapter is missing.",
                hint="Finish it with `toolkit.train(RECIPE, resume=True)`, or give another folder.",
            )
        return run

    def gguf(self, file_type: str) -> Path:
        """Where the GGUF of one file type (f16, q8_0, ...) stands."""
        return self.path / "gguf" / f"{self.path.resolve().name}-{file_type}.gguf"

    @property
    def is_taken(self) -> bool:
        """Whether the folder already holds anything but what a process left that was killed as it began."""
        return self.path.exists() and (
            not self.path.is_dir() or any(path.suffix != ".partial" for path in self.path.iterdir())
        )

    def check_not_taken(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds something, unless that is an older run which may be overwritten.

        Raises:
            RunError: the folder is taken.
        """
        if not IS_MAIN_PROCESS:  # the main process may have begun already
            return
        check_run_path(self.path)
        if not self.is_taken:
            return
        if not overwrite:
            raise RunError(
                f"{self.path} exists already, and a run is never overwritten silently.",
                hint="Add resume=True to finish it, overwrite=True to replace it, or output_dir for another folder.",
            )
        if not self.run_json.is_file():
            raise RunError(
                f"{self.path} is not a run folder (it has no run.json), so it is not overwritten.",
                hint="Give another folder with output_dir.",
            )

    def begin(self, record: dict[str, Any], recipe: str, *, replace: bool) -> None:
        """Create the folder, its recipe.yaml and a run.json of status `running`; `replace` empties an older run first.

        A kill at any moment leaves a folder that can be resumed, or started again, with `overwrite` if it held a run.
        """
        if replace and self.path.is_dir():
            self._empty()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.recipe_file, recipe)
        write_json(self.run_json, {"status": "running", "started": now(), **record})

    def _empty(self) -> None:
        """Remove all but a run.json that promises nothing, the recipe first: without it nothing is resumed."""
        write_json(self.run_json, {"status": "overwritten"})
        self.recipe_file.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path != self.run_json:
                remove(path)

    @property
    def is_finished(self) -> bool:
        """Whether all steps were made and the adapter is there."""
        return self.record.get("status") == "completed" and (self.adapter / "adapter_config.json").is_file()

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds; empty before the run began.

        Raises:
            RunError: it is damaged.
        """
        if not self.run_json.is_file():
            return {}
        try:
            record = read_object(self.run_json)
        except RunError as error:
            error.hint = "Put it back from a copy, or train again with overwrite=True or another output_dir."
            raise
        if invalid_sections := [key for key in _SECTIONS if not isinstance(record.get(key), (dict, NoneType))]:
            raise RunError(
                f"{self.run_json} has no object under {invalid_sections[0]!r}, so it is damaged.",
                hint="Copy the file again.",
            )
        return record

    def update(self, **fields: Any) -> None:
        """Set fields of run.json; fields that were there and are not named stay."""
        write_json(self.run_json, self.record | fields)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        RunError: it is not there, or holds none.
    """
    hint = "Make it again, or remove it."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"There is no {path}.", hint="Give the whole folder.") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text (byte {error.start}).", hint=hint) from error
    except RecursionError as error:
        raise RunError(f"{path} is nested too deeply.", hint=hint) from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}.", hint=hint) from error
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a {type(value).__name__}, not an object.", hint=hint)
    return value


def check_is_evaluation(folder: Path) -> None:
    """Refuse a folder that is not one which `eval_generate.py` wrote.

    Raises:
        RunError: metrics.json or predictions.jsonl is missing.
    """
    if (folder / "metrics.json").is_file() and (folder / "predictions.jsonl").is_file():
        return
    hint = "Make one: run.evaluate()"
    if evaluations := sorted(path.parent for path in folder.glob("eval/*/metrics.json")):
        hint = f"Give one of its evaluations, e.g. {evaluations[0]}."
    raise RunError(f"{folder} is no evaluation: it has not both metrics.json and predictions.jsonl.", hint=hint)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
