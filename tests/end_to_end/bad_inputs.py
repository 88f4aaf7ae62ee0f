"""Building blocks of the bad inputs: a workspace, commands, and edits that damage files."""

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import RECIPE
from toolkit.runs.run_folder import RunFolder

LABELS = ["entailment", "neutral", "contradiction"]
ROWS = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": LABELS[i % 3]} for i in range(24)]
VALID = yaml.safe_dump(RECIPE, allow_unicode=True)
Edit = Callable[[Path], Any]


@dataclass(frozen=True)
class Workspace:
    """An empty folder for the files of a test case, with an intact model, run and GGUF file to copy from."""

    folder: Path
    model: Path
    run: RunFolder
    gguf: Path

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def recipe(self, **changes: dict[str, Any]) -> Path:
        values = {section: {**RECIPE[section], **changes.get(section, {})} for section in {**RECIPE, **changes}}
        values["model"] = {**RECIPE["model"], "name": str(self.model), **changes.get("model", {})}
        return self.put("recipe.yaml", yaml.safe_dump(values))

    def copy(self, source: Path, edit: Edit) -> Path:
        target = self.folder / source.name
        shutil.copytree(source, target)
        edit(target)
        return target


@dataclass(frozen=True)
class Case:
    """A bad input: the command that reads it, and text that the error message and the hint must contain."""

    name: str
    arguments: Callable[[Workspace], Sequence[object]]
    message: str
    hint: str
    code: int = 2

    def __str__(self) -> str:
        return self.name


def sft(recipe: Callable[[Workspace], object], *flags: str) -> Callable[[Workspace], Sequence[object]]:
    """A training command that must be refused."""
    return lambda workspace: ["sft", recipe(workspace), "--output-dir", workspace.folder / "new", *flags]


def text(content: str | bytes) -> Callable[[Workspace], Sequence[object]]:
    """A training command with a recipe file of this content."""
    return sft(lambda workspace: workspace.put("recipe.yaml", content))


def overrides(*assignments: str) -> Callable[[Workspace], Sequence[object]]:
    """A training command with a valid recipe and --set."""
    return sft(
        lambda workspace: workspace.recipe(),
        *[argument for assignment in assignments for argument in ("--set", assignment)],
    )


def rows(name: str, content: str | bytes, **columns: str) -> Callable[[Workspace], Sequence[object]]:
    """A training command with a valid recipe on a data file of this content."""

    def recipe(workspace: Workspace) -> Path:
        data = {"train": {"path": str(workspace.put(name, content))}, "columns": {"id": None, **columns}}
        return workspace.recipe(data=data, evaluation={"slice_by": []})

    return sft(recipe)


def model(edit: Edit) -> Callable[[Workspace], Sequence[object]]:
    """A training command with a valid recipe on a modified model folder."""
    return sft(lambda workspace: workspace.recipe(model={"name": str(workspace.copy(workspace.model, edit))}))


def run(script: str, edit: Edit, *flags: object) -> Callable[[Workspace], Sequence[object]]:
    """A command on a modified run."""
    return lambda workspace: [script, workspace.copy(workspace.run.path, edit), *flags]


def gguf(edit: Callable[[bytearray], Any]) -> Callable[[Workspace], Sequence[object]]:
    """A prediction with a modified GGUF file."""

    def arguments(workspace: Workspace) -> Sequence[object]:
        content = bytearray(workspace.gguf.read_bytes())
        # An edit either changes the content in place and returns None, or returns new content.
        changed = edit(content)
        file = workspace.put("other.gguf", bytes(content if changed is None else changed))
        return ["predict", workspace.run.path, "--model", file, *PAIR]

    return arguments


def write(name: str, content: str | bytes) -> Edit:
    """Overwrite a file in the folder."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def config(**changes: object) -> Edit:
    """Change keys of config.json."""
    return merge("config.json", **changes)


def merge(name: str, **changes: object) -> Edit:
    """Change keys of a JSON file."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    return edit


def rename(old: str, new: str) -> Edit:
    """Rename a file in the folder."""
    return lambda folder: (folder / old).rename(folder / new)


def truncate(name: str, kept: int) -> Edit:
    """Truncate a file to its first bytes."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def set_u32(key: bytes, value: int) -> Callable[[bytearray], None]:
    """Set a 32-bit field of a GGUF file."""

    def edit(content: bytearray) -> None:
        # A field is stored as its key, its type (4 bytes) and its value.
        offset = content.index(key) + len(key) + 4
        content[offset : offset + 4] = struct.pack("<I", value)

    return edit


def set_number(offset: int, code: str, value: int) -> Callable[[bytearray], None]:
    """Overwrite a number of a GGUF file at a byte offset."""
    return lambda content: struct.pack_into(f"<{code}", content, offset, value)


def jsonl(*lines: str) -> str:
    """Valid rows followed by these lines."""
    return "".join(json.dumps(row) + "\n" for row in ROWS) + "".join(line + "\n" for line in lines)


def row(**changes: object) -> str:
    """A valid row with changes, as JSON."""
    return json.dumps({**ROWS[0], **changes})


PAIR = ("--premise", "a", "--hypothesis", "b")
ADAPTER = "adapter/adapter_model.safetensors"
PREDICTIONS = "eval/adapter/predictions.jsonl"
METRICS = "eval/adapter/metrics.json"
