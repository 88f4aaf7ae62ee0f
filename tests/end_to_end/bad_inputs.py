"""Bad inputs, each with the command that meets it, the words of its sentence and of its hint."""

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
GOOD = yaml.safe_dump(RECIPE, allow_unicode=True)
Edit = Callable[[Path], Any]


@dataclass(frozen=True)
class Place:
    """An empty folder in which a case puts its files; `run` and `gguf` are good ones to copy from."""

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
class Bad:
    """One bad input."""

    name: str
    arguments: Callable[[Place], Sequence[object]]
    sentence: str
    hint: str
    code: int = 2

    def __str__(self) -> str:
        return self.name


def sft(recipe: Callable[[Place], object], *flags: str) -> Callable[[Place], Sequence[object]]:
    """A training that is to be refused."""
    return lambda place: ["sft", recipe(place), "--output-dir", place.folder / "new", *flags]


def text(content: str | bytes) -> Callable[[Place], Sequence[object]]:
    """A recipe file of this content."""
    return sft(lambda place: place.put("recipe.yaml", content))


def overrides(*assignments: str) -> Callable[[Place], Sequence[object]]:
    """A good recipe with --set."""
    return sft(lambda place: place.recipe(), *[word for one in assignments for word in ("--set", one)])


def rows(name: str, content: str | bytes, **columns: str) -> Callable[[Place], Sequence[object]]:
    """A good recipe that trains on a file of this content."""

    def recipe(place: Place) -> Path:
        data = {"train": {"path": str(place.put(name, content))}, "columns": {"id": None, **columns}}
        return place.recipe(data=data, evaluation={"slice_by": []})

    return sft(recipe)


def model(edit: Edit) -> Callable[[Place], Sequence[object]]:
    """A good recipe on a model folder that was changed."""
    return sft(lambda place: place.recipe(model={"name": str(place.copy(place.model, edit))}))


def run(script: str, edit: Edit, *flags: object) -> Callable[[Place], Sequence[object]]:
    """A command on a run that was changed."""
    return lambda place: [script, place.copy(place.run.path, edit), *flags]


def gguf(edit: Callable[[bytearray], Any]) -> Callable[[Place], Sequence[object]]:
    """A prediction with a GGUF file that was changed."""

    def arguments(place: Place) -> Sequence[object]:
        content = bytearray(place.gguf.read_bytes())
        changed = edit(content)
        file = place.put("other.gguf", bytes(content if changed is None else changed))
        return ["predict", place.run.path, "--model", file, *PAIR]

    return arguments


def write(name: str, content: str | bytes) -> Edit:
    """Replace a file of a folder."""
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
    """Give a file of a folder another name."""
    return lambda folder: (folder / old).rename(folder / new)


def cut(name: str, kept: int) -> Edit:
    """Keep the first bytes of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def u32(key: bytes, value: int) -> Callable[[bytearray], None]:
    """Set a 32-bit field of a GGUF file."""

    def edit(content: bytearray) -> None:
        at = content.index(key) + len(key) + 4
        content[at : at + 4] = struct.pack("<I", value)

    return edit


def at(offset: int, code: str, value: int) -> Callable[[bytearray], None]:
    """Set a number of a GGUF file by its place."""
    return lambda content: struct.pack_into(f"<{code}", content, offset, value)


def jsonl(*lines: str) -> str:
    """Good rows, then these lines."""
    return "".join(json.dumps(row) + "\n" for row in ROWS) + "".join(line + "\n" for line in lines)


def row(**changes: object) -> str:
    """A good row with changes, as JSON."""
    return json.dumps({**ROWS[0], **changes})


PAIR = ("--premise", "a", "--hypothesis", "b")
ADAPTER = "adapter/adapter_model.safetensors"
PREDICTIONS = "eval/adapter/predictions.jsonl"
METRICS = "eval/adapter/metrics.json"
