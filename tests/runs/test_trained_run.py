"""Opening a finished run: recipe.yaml is read once, and overrides are recognized."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.evaluation.run_files import make_run
from toolkit.errors import RecipeError, RunError
from toolkit.reporting.report_data import gather_report
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of all files that are read as text, in order."""
    read, paths = Path.read_text, list[Path]()

    def read_and_record(path: Path, *args: Any, **options: Any) -> str:
        paths.append(path)
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_and_record)
    return paths


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ["evaluation.baselines=false", "evaluation.batch_tokens=512"],
        {"evaluation.baselines": False, "evaluation.batch_tokens": 512},
    ],
    ids=["none", "assignments", "values"],
)
def test_the_recipe_is_read_once(folder: RunFolder, reads: list[Path], overrides: Any) -> None:
    run = TrainedRun.open(folder.path, overrides)
    report = gather_report(run)
    assert reads.count(folder.recipe_file) == 1, "the report shows the text that was read before"
    assert report.recipe_text == run.recipe_text == folder.recipe_file.read_text(encoding="utf-8")
    assert run.path == run.folder.path == folder.path
    assert (run.saved_recipe.evaluation.baselines, run.saved_recipe.evaluation.batch_tokens) == (True, "auto")
    if overrides:
        assert (run.recipe.evaluation.baselines, run.recipe.evaluation.batch_tokens) == (False, 512)
        assert run.overridden == {"evaluation.baselines": False, "evaluation.batch_tokens": 512}
    else:
        assert run.recipe is run.saved_recipe and run.overridden == {}


def test_override_without_effect_is_ignored(folder: RunFolder) -> None:
    run = TrainedRun.open(folder.path, {"training.max_steps": 3, "data.eval.limit": 5})
    assert run.overridden == {"data.eval.limit": 5}


@pytest.mark.parametrize("override", ["lora.r=2", "training.max_steps=7"])
def test_override_of_training_is_refused(folder: RunFolder, override: str) -> None:
    with pytest.raises(RecipeError, match="has no effect on a run that is already trained"):
        TrainedRun.open(folder.path, [override])
    with pytest.raises(RecipeError, match="has no effect on a run that is already trained"):
        toolkit.open_run(folder.path).load(overrides=[override])


def test_with_recipe_keeps_the_saved_recipe(folder: RunFolder) -> None:
    run = TrainedRun.open(folder.path)
    other = run.with_recipe(TrainedRun.open(folder.path, ["seed=7"]).recipe)
    assert (other.recipe.seed, other.saved_recipe, other.folder) == (7, run.saved_recipe, run.folder)
    assert other.overridden == {"seed": 7} and run.overridden == {}


def test_the_record_is_read_once(folder: RunFolder) -> None:
    run = TrainedRun.open(folder.path)
    record = run.record
    assert record["steps"] == 40
    write_json(folder.run_json, {"status": "failed"})
    assert run.record is record
    assert TrainedRun.open(folder.path).record == {"status": "failed"}


def test_unfinished_run_is_rejected(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"There is no run folder {tmp_path / 'none'}"):
        TrainedRun.open(tmp_path / "none")
    (folder.adapter / "adapter_config.json").unlink()
    with pytest.raises(RunError, match=r"is not a finished run: .* is missing"):
        TrainedRun.open(folder.path)


def test_invalid_override_and_damaged_recipe_are_rejected(folder: RunFolder) -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.yaml: lora\.r: -4 cannot be used"):
        TrainedRun.open(folder.path, {"lora.r": -4})
    folder.recipe_file.write_text("task: [", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 1, column 8 is not valid YAML"):
        TrainedRun.open(folder.path)
