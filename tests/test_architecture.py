"""The rules of the house, read from the source: arrows run one way, and some doors are the only ones."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A room may import rooms that stand before it, and its own.
ORDER = [
    "errors",
    "visible_text",
    "time_limit",
    "disk",
    "files",
    "out_of_memory",
    "versions",
    "kinds",
    "recipe",
    "file_types",
    "yaml_text",
    "recipe_file",
    "task",
    "run_place",
    "run_folder",
    "command_line",
    "embedded",
    "data",
    "fitting",
    "prompts",
    "pairs",
    "batching",
    "model",
    "decoding",
    "preflight",
    "training",
    "evaluation",
    "export",
    "doctor",
]
# Pre-training speaks through prompts.py as everyone does.
EXCEPTIONS = {("embedded", "prompts")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def modules() -> list[Path]:
    return sorted(path for path in (ROOT / "toolkit").rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "toolkit").parts[0].removesuffix(".py")


def test_there_are_modules_to_look_at() -> None:
    assert len(modules()) > 25
    assert {room(path) for path in modules()} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_no_arrow_runs_back_up(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        if name.startswith("toolkit."):
            there = name.split(".")[1]
            assert ORDER.index(there) <= ORDER.index(here) or (here, there) in EXCEPTIONS, f"{path.name} imports {name}"


def test_unsloth_trl_and_peft_have_one_door() -> None:
    users = {
        path.name for path in modules() for name in imports(path) if name.split(".")[0] in ("unsloth", "trl", "peft")
    }
    assert users == {"backend.py"}


def test_text_becomes_ids_in_one_module() -> None:
    telling = re.compile(r"apply_chat_template\(|add_special_tokens=|\btokenizer\(|batch_encode|tokenizer\.encode\(")
    users = {path.name for path in modules() if telling.search(path.read_text(encoding="utf-8"))}
    # The first trains a tokenizer, the second looks at one byte's ids to tell whether llama.cpp shall add a BOS.
    assert users - {"tiny_llama.py", "gguf_tokenizer.py"} == {"prompts.py"}


def test_scripts_are_short() -> None:
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    assert len(scripts) >= 4
    for path in scripts:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name


def test_modules_and_functions_are_short() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"


def test_nothing_trusts_remote_code_or_unpickles() -> None:
    for path in [*modules(), *(ROOT / "scripts").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for word in ("trust_remote_code=True", "import pickle", "torch.load(", "torch.save(", "yaml.unsafe_load"):
            assert word not in text, f"{path.name}: {word}"
