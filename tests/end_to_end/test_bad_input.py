"""Every bad input ends in one error message with a hint and an exit code, and changes no file."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.end_to_end.bad_input_cases import CASES, RECIPE_CASES, Case
from tests.end_to_end.bad_inputs import Workspace, text
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained_run(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two evaluations, merged weights and a GGUF file."""
    from toolkit.evaluation.evaluator import evaluate
    from toolkit.evaluation.request import EvaluationRequest
    from toolkit.export.exporter import ExportOptions, export_run

    path = tmp_path_factory.mktemp("bad") / "small"
    shutil.copytree(trained.path, path)
    run = TrainedRun.open(path)
    export_run(run, ExportOptions(("f16",), verify=3, min_agreement=0.01))
    for model in ("adapter", "base"):
        evaluate(run, EvaluationRequest(ModelRef.parse(model)))
    return run.folder


@pytest.fixture
def workspace(trained_run: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path, tiny_model, trained_run, trained_run.gguf("f16"))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every path in a folder with its size and modification time."""
    statuses = [(path, path.lstat()) for path in folder.rglob("*")]
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in statuses}


def test_cases_have_unique_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_one_error_message(case: Case, workspace: Workspace, call: Call) -> None:
    arguments = case.arguments(workspace)
    before = snapshot(workspace.folder), snapshot(workspace.run.path)
    code, out, err = call(*arguments)
    assert code == case.code and "Traceback" not in out, err
    error, _, hint = err.partition("\nhint: ")
    assert error.count("error: ") == 1 and case.message in error and case.hint in hint
    assert len(err) < 3000 and "Traceback" not in err
    assert (snapshot(workspace.folder), snapshot(workspace.run.path)) == before


@pytest.mark.parametrize("case", RECIPE_CASES[:2] + RECIPE_CASES[8:9] + RECIPE_CASES[14:15], ids=str)
def test_scripts_print_the_same_error(case: Case, workspace: Workspace) -> None:
    """As separate processes, the scripts behave like their functions called in this process."""
    script, *arguments = map(str, case.arguments(workspace))
    command = [sys.executable, ROOT / "scripts" / f"{script}.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == case.code and case.message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read and write everything")
def test_missing_permissions_name_the_path(workspace: Workspace, call: Call) -> None:
    script, recipe, *flags = text("task: {}\n")(workspace)
    Path(str(recipe)).chmod(0)
    code, _, err = call(script, recipe, *flags)
    assert code == 1 and f"Cannot open {recipe}: permission denied" in err
    workspace.folder.chmod(0o500)
    code, _, err = call("sft", ROOT / "recipes" / "quickstart.yaml", "--output-dir", workspace.folder / "new")
    assert code == 2 and f"{workspace.folder} cannot be written" in err
