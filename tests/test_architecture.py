"""The rules of docs/architecture.md, checked on the source code."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# In the diagram's order (docs/architecture.md), top to bottom: a package imports only from itself and earlier ones.
ORDER = [
    "errors", "utils", "recipe", "embedded", "runs", "data", "prompts", "batching", "models", "inference", "evaluation",
    "planning", "training", "reporting", "export", "api",
    "distributed", "studies", "cli",
]  # fmt: skip
PUBLIC_FILES = {"__init__.py", "__main__.py", "errors.py"}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, and each imported name, which can be a module too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*folders: str) -> list[Path]:
    """Return the modules in some folders, by default those of the package."""
    paths = [path for folder in folders or ("toolkit",) for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in paths if path.name not in ("__init__.py", "__main__.py"))


def package(path: Path) -> str:
    """Return the package below `toolkit` that a module belongs to."""
    return path.relative_to(ROOT / "toolkit").parts[0].removesuffix(".py")


def test_order_lists_every_folder() -> None:
    folders = {path.name for path in (ROOT / "toolkit").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"errors"} == set(ORDER)
    assert {path.name for path in (ROOT / "toolkit").iterdir() if path.is_file()} == PUBLIC_FILES
    for folder in folders:
        assert modules(f"toolkit/{folder}"), f"{folder} is empty"


def test_every_package_has_tests() -> None:
    for folder in ORDER[1:]:
        assert list((ROOT / "tests" / folder).glob("test_*.py")), f"tests/{folder} is missing"


@pytest.mark.parametrize("path", modules(), ids=lambda path: f"{package(path)}.{path.stem}")
def test_packages_never_import_from_below(path: Path) -> None:
    importer = package(path)
    for name in imports(path):
        assert name.split(".")[0] not in ("tools", "scripts", "tests", "benchmarks"), f"{path.name} imports {name}"
        if name.startswith("toolkit.") and (imported := name.split(".")[1]) in ORDER:
            assert ORDER.index(imported) <= ORDER.index(importer), f"{path.name} imports {name}"


def test_imports_have_no_cycles() -> None:
    """No module imports itself through others, imports inside functions included."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    graph = {
        name: {imported for imported in imports(path) if imported in names and imported != name}
        for name, path in names.items()
    }
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_backend_imports_unsloth_trl_peft() -> None:
    users = {
        path.name for path in modules() for name in imports(path) if name.split(".")[0] in ("unsloth", "trl", "peft")
    }
    assert users == {"backend.py"}


def test_only_prompts_tokenizes_text() -> None:
    # A RowTokenizer (row_tokenizer, prompt_tokenizer) belongs to prompts/, so every package can call its `encode`.
    tokenizing = re.compile(
        r"\.apply_chat_template\b|add_special_tokens=|\btokenizer\(|batch_encode|\.tokenize\("
        r"|(?<!row_)(?<!prompt_)(?<!pair_)tokenizer\.encode\("
    )
    matches = [path for path in modules("toolkit", "tools") if tokenizing.search(path.read_text(encoding="utf-8"))]
    users = {path.relative_to(ROOT).as_posix() for path in matches}
    # gguf_vocabulary.py tokenizes words only to compare the result with llama.cpp's merging rule. No model reads them.
    assert users - {"toolkit/models/gguf_vocabulary.py"} == {
        "toolkit/prompts/chat_template.py",
        "toolkit/prompts/prompt_tokenizer.py",
        "toolkit/prompts/tokenizer.py",
    }


def test_library_neither_prints_nor_exits() -> None:
    """Only `cli/`, scripts and `if __name__ == "__main__"` blocks print, read sys.argv or exit."""
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


def test_library_messages_name_no_flags() -> None:
    """Messages name arguments of the API, which `cli/flags.py` translates into flags."""
    flag = re.compile(
        r"(?<![\w-])--(?:resume|overwrite|output-dir|set|model|mode|shots|limit|data|calibrated|probe|memory)\b"
    )
    # These modules show complete commands: those that reproduce a report, and the one that resumes a run.
    allowed = {"reproduction.py", "training_run.py"}
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
