"""The rules of the architecture, read from the source: dependencies point one way, and some doors are the only ones."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Lowest first: a package imports from itself and from packages before it. docs/architecture.md draws the same order.
ORDER = [
    "errors", "utils", "recipe", "embedded", "runs", "data", "prompts", "batching", "models", "inference", "evaluation",
    "planning", "training", "reporting", "export", "api", "cli",
]  # fmt: skip
PUBLIC_FACE = {"__init__.py", "__main__.py", "errors.py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*folders: str) -> list[Path]:
    found = [path for folder in folders or ("toolkit",) for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if path.name not in ("__init__.py", "__main__.py"))


def package(path: Path) -> str:
    return path.relative_to(ROOT / "toolkit").parts[0].removesuffix(".py")


def test_every_folder_has_its_place_in_the_order() -> None:
    folders = {path.name for path in (ROOT / "toolkit").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"errors"} == set(ORDER)
    assert {path.name for path in (ROOT / "toolkit").iterdir() if path.is_file()} == PUBLIC_FACE
    for folder in folders:
        assert modules(f"toolkit/{folder}"), f"{folder} is empty"


def test_tests_mirror_the_packages() -> None:
    for folder in ORDER[1:]:
        assert list((ROOT / "tests" / folder).glob("test_*.py")), f"tests/{folder} is missing"


@pytest.mark.parametrize("path", modules(), ids=lambda path: f"{package(path)}.{path.stem}")
def test_dependencies_never_point_upward(path: Path) -> None:
    here = package(path)
    for name in imports(path):
        assert name.split(".")[0] not in ("tools", "scripts", "tests", "benchmarks"), f"{path.name} imports {name}"
        if name.startswith("toolkit.") and (there := name.split(".")[1]) in ORDER:
            assert ORDER.index(there) <= ORDER.index(here), f"{path.name} imports {name}"


def test_modules_import_each_other_without_cycles() -> None:
    """Imports inside functions count: a cycle is a cycle however late it is closed."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    graph = {
        name: {other for other in imports(path) if other in names and other != name} for name, path in names.items()
    }
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_unsloth_trl_and_peft_have_one_door() -> None:
    users = {
        path.name for path in modules() for name in imports(path) if name.split(".")[0] in ("unsloth", "trl", "peft")
    }
    assert users == {"backend.py"}


def test_text_becomes_ids_in_one_package() -> None:
    telling = re.compile(
        r"\.apply_chat_template\b|add_special_tokens=|\btokenizer\(|batch_encode|tokenizer\.encode\(|\.tokenize\("
    )
    found = [path for path in modules("toolkit", "tools") if telling.search(path.read_text(encoding="utf-8"))]
    users = {path.relative_to(ROOT).as_posix() for path in found}
    # The first asks which token merging gives a word, to compare it with llama.cpp's rule; no model reads it.
    assert users - {"toolkit/export/gguf_tokenizer.py"} == {
        "toolkit/prompts/chat_template.py",
        "toolkit/prompts/encoder.py",
        "toolkit/prompts/tokenizer.py",
    }


def test_library_neither_prints_nor_exits() -> None:
    """Only `cli/` and scripts print, read sys.argv and exit; a block under `__main__` is a program of its own."""
    for path in modules():
        if package(path) == "cli":
            continue
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.If) and "__name__" in ast.dump(statement.test):
                continue
            for node in ast.walk(statement):
                assert not (isinstance(node, ast.Name) and node.id in ("print", "input", "exit")), path.name
                assert not (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.argv", "sys.exit")), (
                    path.name
                )


def test_library_names_no_flags() -> None:
    """Messages name arguments of the API; `cli/flags.py` turns them into flags."""
    flag = re.compile(
        r"(?<![\w-])--(?:resume|overwrite|output-dir|set|model|mode|shots|limit|data|calibrated|probe|memory)\b"
    )
    # Commands as they are typed: those of "how to reproduce", and the one that resumes a run that a command started.
    allowed = {"report_data.py", "training_run.py"}
    for path in modules():
        if package(path) != "cli" and path.name not in allowed:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and flag.search(node.value):
                    raise AssertionError(f"{path.name}: {node.value[:80]}")


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
