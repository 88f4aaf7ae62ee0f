"""Evaluations of a run with dev rows: the training rows stay the same, and scores of dev rows are marked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.splits import Overlap, Splits, load_splits
from toolkit.errors import DataError
from toolkit.evaluation.baselines import dev_row_warnings
from toolkit.evaluation.evaluation import changes_answers
from toolkit.evaluation.evaluator import _changed_rows
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

Call = Callable[..., tuple[int, str, str]]
SHARED = ("data.dev_share=0.25", "data.calibration_share=0.25")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_recipe: Callable[..., Recipe], tiny_model: Path) -> RunFolder:
    """A run that validates on 12 of its 48 rows."""
    from toolkit.training.training_run import TrainingOptions, train_run

    run = RunFolder(tmp_path_factory.mktemp("dev") / "small")
    recipe = make_recipe(
        f"model.name={tiny_model}", *SHARED, "training.keep=best", "training.max_steps=2", "evaluation.baselines=true"
    )
    train_run(recipe, run, TrainingOptions())
    return run


def metrics_of(run: RunFolder, name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run.eval / name / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def test_dev_rows_are_not_trained_on(run: RunFolder) -> None:
    data = run.record["data"]
    assert [data[name]["rows"] for name in ("train", "dev", "calibration")] == [27, 12, 9]
    assert run.record["tokens"]["rows"] == 27


def test_evaluation_keeps_the_training_rows(call: Call, run: RunFolder) -> None:
    """Otherwise, a warning would say that they have changed, and no temperature would be fitted."""
    code, _, err = call("eval_generate", run.path)
    assert code == 0, err
    metrics = metrics_of(run, "adapter")
    assert not [warning for warning in metrics["warnings"] if "changed" in warning or "dev rows" in warning]
    assert metrics["calibration"]["rows"] == 9


def test_score_of_dev_rows_is_marked(call: Call, run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    dev = load_splits(TrainedRun.open(run.path).recipe).dev
    path.write_text("".join(json.dumps({**row.inputs, "label": row.label}) + "\n" for row in dev), encoding="utf-8")
    code, _, err = call("eval_generate", run.path, "--data", path, "--set", "evaluation.baselines=false")
    assert code == 0, err
    (folder,) = run.eval.glob("adapter@*dev")
    warnings = metrics_of(run, folder.name)["warnings"]
    assert any("12 of 12 evaluation rows are dev rows, which were used to choose the step" in text for text in warnings)


def test_dev_rows_of_a_run_cannot_change(call: Call, run: RunFolder) -> None:
    code, _, err = call("eval_generate", run.path, "--set", "data.dev_share=0.5")
    assert code == 2 and "data.dev_share has no effect on a run that is already trained" in err


def test_changed_dev_rows_are_a_warning(run: RunFolder) -> None:
    trained = TrainedRun.open(run.path)
    splits = load_splits(trained.recipe)
    assert _changed_rows(trained, splits) == []
    changed = replace(splits, dev=splits.dev[1:])
    assert _changed_rows(trained, changed) == ["The dev rows have changed since training."]


def test_missing_dev_file_is_a_warning(
    make_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = make_recipe(f"data.dev={{path: {tmp_path / 'gone.jsonl'}}}")
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        load_splits(gone)
    assert load_splits(gone, trained_recipe=gone).dev == []
    assert "data.dev is missing" in caplog.text


def test_moved_dev_file_does_not_rename_evaluations() -> None:
    assert not changes_answers("data.dev.path") and changes_answers("data.eval.path")


def test_dev_file_can_have_moved(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    path = tmp_path / "moved.jsonl"
    row = {"premise": "p", "hypothesis": "h", "label": "neutral"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    dev = f"data.dev={{path: {path}, columns: {{id: null}}}}"
    trained = make_recipe("data.dev={path: gone.jsonl, columns: {id: null}}")
    splits = load_splits(make_recipe(dev), trained_recipe=trained)
    assert [row.inputs["premise"] for row in splits.dev] == ["p"] and len(splits.train) == 48


@pytest.mark.parametrize(
    ("overrides", "marked"),
    [
        (["training.keep=best"], True),
        (["training.early_stopping_patience=3"], True),
        (["training.eval_steps=2"], False),  # then the dev rows were only looked at
    ],
)
def test_only_dev_rows_that_chose_are_marked(
    make_recipe: Callable[..., Recipe], overrides: list[str], marked: bool
) -> None:
    recipe = make_recipe("data.dev_share=0.25", *overrides)
    splits = load_splits(recipe)
    on_dev = Splits(splits.train, [*splits.dev, *splits.eval], Overlap(), dev=splits.dev)
    warnings = dev_row_warnings(recipe, on_dev)
    assert ["12 of 36 evaluation rows are dev rows" in warning for warning in warnings] == [True] * marked
    assert dev_row_warnings(recipe, splits) == []
