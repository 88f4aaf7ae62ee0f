"""README and docs: every command runs as written or is marked as not tested, and all links lead to files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ENCODER_RECIPE, RECIPE, ROOT
from toolkit.runs.run_folder import RunFolder

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A marker on the line above a block says why it does not run here.
BLOCK = re.compile(r"(?:<!-- not tested: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\s*!?(?:python|make|pip|accelerate|jupyter|apt-get|git) \S", re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command on a page that is not marked."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["language"] == "sh" and not block["reason"]:
            for line in block["text"].replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the pages' commands run: small recipes under their real names, and a user's files."""
    (tmp_path / "recipes").mkdir()
    for name in ("quickstart", "nli_fr"):
        # Enough to train, and a high rate, so that the export differs from the base model.
        values = {**RECIPE, "model": {**RECIPE["model"], "name": str(tiny_model)}}
        del values["evaluation"]  # the user's files below have no column to slice by
        values["training"] = {**RECIPE["training"], "learning_rate": 0.02}
        (tmp_path / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    encoder = {**ENCODER_RECIPE, "model": {**ENCODER_RECIPE["model"], "name": str(tiny_encoder)}}
    (tmp_path / "recipes" / "nli_fr_camembert.yaml").write_text(yaml.safe_dump(encoder), encoding="utf-8")
    rows = [
        f"Le chat {number} dort.\tUn animal {number} dort.\t{label}"
        for number in range(4)
        for label in RECIPE["task"]["labels"]
    ]
    for name, some_rows in (("train.tsv", rows[:9]), ("test.tsv", rows[9:])):
        (tmp_path / name).write_text("\n".join(["text_a\ttext_b\tgold", *some_rows, ""]), encoding="utf-8")
    (tmp_path / "pairs.csv").write_text("premise,hypothesis\nUn chat dort.,Un animal dort.\n", encoding="utf-8")
    reviews = [
        f"{number},Le film numéro {number} est long.,{('positif', 'négatif')[number % 2]}" for number in range(20)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["id,review,sentiment", *reviews, ""]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_commands_run_as_written(
    page: Path, workplace: Path, trained: RunFolder, call: Callable[..., tuple[int, str, str]]
) -> None:
    """Commands of a page run in their order; a run that the page does not train is created beforehand."""
    for words in commands(page):
        if words == ["python", "-m", "toolkit"]:
            done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert "torch" in done.stdout and done.returncode in (0, 1), done.stderr
            continue
        script, arguments = Path(words[1]), words[2:]
        assert words[0] == "python" and script.parent.name == "scripts", f"mark this command as not tested: {words}"
        prepare(workplace, trained, arguments, call)
        code, out, error = call(script.stem, *arguments)
        assert code == 0, f"{page.name}: {shlex.join(words)}\n{out}\n{error}"


def prepare(
    workplace: Path, trained: RunFolder, arguments: list[str], call: Callable[..., tuple[int, str, str]]
) -> None:
    """Make the run and the evaluations that a command begins with, unless an earlier command has made them."""
    for argument in arguments:
        parts = Path(argument).parts
        if parts[:1] == ("outputs",) and "--output-dir" not in arguments and not Path(*parts[:2]).exists():
            shutil.copytree(trained.path, workplace / Path(*parts[:2]))
        if parts[:1] == ("outputs",) and parts[2:3] == ("eval",) and not Path(argument).exists():
            assert call("eval_generate", Path(*parts[:2]), "--model", parts[3])[0] == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_in_code_blocks(page: Path) -> None:
    """A command outside of a block, or in an indented one, would be neither run nor marked."""
    rest = BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert [line for line in rest.splitlines() if line.startswith("    ") and COMMAND.match(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)\)", text)
    assert [name for name in targets if "://" not in name and not (page.parent / name).exists()] == []
    # Paths in backticks that start with a folder of the repository must exist too.
    paths = re.findall(
        r"`((?:toolkit|tools|tests|docs|recipes|benchmarks|requirements|schema|scripts)/[\w./-]+)`", text
    )
    assert [name for name in paths if not (ROOT / name).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_readme_python_block_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    fits, figures, *_ = done.stdout.splitlines()
    accuracy, macro_f1 = map(float, figures.split())
    assert fits == "True" and 0 <= macro_f1 <= 1 and 0 <= accuracy <= 1
    assert f"accuracy {accuracy:.2%}" in done.stdout and "McNemar's exact test" in done.stdout
    assert re.search(r"^\['(entailment|neutral|contradiction)'\]$", done.stdout, re.MULTILINE)
    assert "'gguf-f16': " in done.stdout and "step/s" not in done.stderr
