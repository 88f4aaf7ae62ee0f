"""Models that cannot compute prefix trees: padded from the start, with the reason, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.stand_ins import write_stand_in
from toolkit.errors import RecipeError
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.training.verification import choose_rows

MakeRecipe = Callable[..., Recipe]
REASON = "the model's tokens attend to later tokens, so rows share no prefix that could be computed once"


@pytest.fixture
def bidirectional(tmp_path: Path) -> Path:
    """A Gemma whose tokens attend in both directions."""
    return write_stand_in("gemma3", tmp_path / "bidirectional", use_bidirectional_attention=True)


def test_model_without_trees_is_padded(make_recipe: MakeRecipe, bidirectional: Path) -> None:
    plan = plan_job(run_preflight(make_recipe(f"model.name={bidirectional}"))).plan
    assert not plan.is_tree and plan.group_by == () and str(plan).startswith(f"padded: {REASON}\n")


def test_required_trees_are_refused_before_loading(make_recipe: MakeRecipe, bidirectional: Path) -> None:
    preflight = run_preflight(make_recipe(f"model.name={bidirectional}", "training.batching=prefix_tree"))
    with pytest.raises(RecipeError, match=f"prefix_tree is not available for this model, because {REASON}") as refusal:
        plan_job(preflight)
    assert refusal.value.hint == "Set training.batching: auto, which then pads the rows."


def test_long_row_is_verified_with_a_window(make_recipe: MakeRecipe, tmp_path: Path, tiny_model: Path) -> None:
    """Rows that fit into the window could not show that it is wrong."""
    recipe = make_recipe(f"model.name={tiny_model}")
    job = plan_job(run_preflight(recipe))
    longest = max(len(row) for row in job.preflight.train_rows)
    for window, is_exceeded in ((None, False), (longest, False), (longest - 1, True)):
        config = job.preflight.config
        config.sliding_window = window
        rows = choose_rows(job, config)
        lengths = [len(row["prompt"]) + len(row["answer"]) for row in rows]
        assert (rows == job.first_batches(1)[0]) is not is_exceeded
        assert not is_exceeded or (len(rows) == 2 and max(lengths) == longest and rows[0] != rows[1])


def test_windowed_model_trains_in_trees(
    make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    folder, run = write_stand_in("gemma3", tmp_path / "gemma"), RunFolder(tmp_path / "run")
    train_run(make_recipe(f"model.name={folder}"), run, TrainingOptions())
    verification: dict[str, Any] = run.record["batching"]["verification"]
    assert run.record["batching"]["name"] == "prefix_tree" and verification["gradient_difference"] < 1e-5
    assert "verified    " in caplog.text
