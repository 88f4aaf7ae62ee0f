"""The rules of wording that a program can check: how docstrings open, words to avoid, the length of test names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CODE = sorted(
    path for folder in ("toolkit", "tools", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
    *sorted((ROOT / "toolkit" / "reporting" / "templates").iterdir()),
    ROOT / "schema" / "recipe.schema.json",
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
]

BAD_OPENING = re.compile(r"(what|whether|how|where|which|of|why|when|who)\b", re.IGNORECASE)
AVOIDED = re.compile(
    r"\b(beside|beside each other|anew|mend|surest|commonest|to be had|gone on with|was begun|goes on from|is told"
    r"|once more|whole checkpoints?|one's own|rows that train|nodes that hang)\b",
    re.IGNORECASE,
)
BRITISH = re.compile(
    r"\b\w*((token|optim|normal|quant|initial|serial|recogn|summar|memor|organ|minim|maxim|random)is(e|ed|es|er|ers|ing|ation)"
    r"|colour\w*|licence\w*|neighbour\w*|behaviour\w*|favour\w*|labell(ed|ing)|grey)\b",
    re.IGNORECASE,
)
MAX_TEST_NAME_WORDS = 8


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def is_exception(node: ast.AST) -> bool:
    """Return whether a class is an exception, by the names of its bases."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return any(isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in bases)


def test_there_is_something_to_check() -> None:
    assert len(CODE) > 150 and len(TESTS) > 80 and len(TEXTS) > 15
    assert all(path.is_file() for path in TEXTS)


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=name_of)
def test_docstrings_have_valid_openings(path: Path) -> None:
    texts = list(docstrings(path))
    assert [text.splitlines()[0] for _, text in texts if BAD_OPENING.match(text)] == []
    if path in CODE:
        exceptions = [text.splitlines()[0] for node, text in texts if is_exception(node)]
        assert [text for text in exceptions if not text.startswith(("Raised when", "Base class of"))] == []


@pytest.mark.parametrize("path", [*CODE, *TESTS, *TEXTS], ids=name_of)
def test_avoided_words_do_not_occur(path: Path) -> None:
    if path.name == Path(__file__).name:
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if AVOIDED.search(line) or BRITISH.search(line)] == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_test_names_are_short(path: Path) -> None:
    names = re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in names if name.count("_") > MAX_TEST_NAME_WORDS] == []


@pytest.mark.parametrize(
    "sentence", ["its place is beside the run", "it was begun anew", "the optimiser's colour", "a quantised file"]
)
def test_patterns_find_what_they_should(sentence: str) -> None:
    assert AVOIDED.search(sentence) or BRITISH.search(sentence)
