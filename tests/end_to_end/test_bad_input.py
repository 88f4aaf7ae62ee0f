"""Input that cannot hurt: each ends in one sentence with a hint and an exit code, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.end_to_end.bad_input_cases import CASES, RECIPE_CASES, Bad
from tests.end_to_end.bad_inputs import Place, text
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two evaluations, merged weights and a GGUF."""
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
def place(finished: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_model, finished, finished.gguf("f16"))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder, with its size and the time of its last change."""
    found = [(path, path.lstat()) for path in folder.rglob("*")]
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}


def test_there_are_over_a_hundred_and_each_has_a_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_ends_in_its_sentence_and_leaves_nothing(case: Bad, place: Place, call: Call) -> None:
    arguments = case.arguments(place)
    before = files(place.folder), files(place.run.path)
    code, out, err = call(*arguments)
    assert code == case.code and "Traceback" not in out, err
    error, _, hint = err.partition("\nhint: ")
    assert error.count("error: ") == 1 and case.sentence in error and case.hint in hint
    assert len(err) < 3000 and "Traceback" not in err
    assert (files(place.folder), files(place.run.path)) == before


@pytest.mark.parametrize("case", RECIPE_CASES[:2] + RECIPE_CASES[8:9] + RECIPE_CASES[14:15], ids=str)
def test_the_command_itself_says_the_same(case: Bad, place: Place) -> None:
    script, *arguments = map(str, case.arguments(place))
    command = [sys.executable, ROOT / "scripts" / f"{script}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == case.code and case.sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written_is_named(place: Place, call: Call) -> None:
    script, recipe, *others = text("task: {}\n")(place)
    Path(str(recipe)).chmod(0)
    code, _, err = call(script, recipe, *others)
    assert code == 1 and f"{recipe} cannot be opened: this user may not" in err
    place.folder.chmod(0o500)
    code, _, err = call("sft", ROOT / "recipes" / "quickstart.yaml", "--output-dir", place.folder / "new")
    assert code == 2 and f"{place.folder} cannot be written" in err
