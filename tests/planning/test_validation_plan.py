"""Tests of the number of steps between validations: it follows from counted tokens, and resumed runs keep it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.batching.prefix_tree import Branch, build_tree, split_by_nodes
from toolkit.errors import RunError
from toolkit.planning import validation_plan
from toolkit.planning.job import TrainingJob
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.planning.resource_estimate import estimate_resources
from toolkit.planning.validation_plan import plan_validation, validation_warnings
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
DEV = "data.dev={path: 'embedded:nli-fr', split: test, limit: 24}"


@pytest.fixture(scope="module")
def make_job(make_recipe: MakeRecipe, tiny_model: Path) -> Callable[..., TrainingJob]:
    """A function that plans a job with dev rows on the tiny model. Its arguments are overrides."""
    return lambda *overrides: plan_job(run_preflight(make_recipe(f"model.name={tiny_model}", DEV, *overrides)))


@pytest.mark.parametrize("kind", ["tree", "padded", "encoder"])
@pytest.mark.parametrize("steps", [40, 600, 5_000])
def test_auto_takes_at_most_its_share(
    make_job: Callable[..., TrainingJob], make_encoder_recipe: MakeRecipe, kind: str, steps: int
) -> None:
    """The next smaller number of steps would take more, or more validations than are useful."""
    overrides = [f"training.max_steps={steps}"]
    if kind == "encoder":
        job = plan_job(run_preflight(make_encoder_recipe(DEV, *overrides)))
    else:
        job = make_job(*overrides, f"training.batching={'padded' if kind == 'padded' else 'prefix_tree'}")
    eval_steps = job.plan.eval_steps
    assert eval_steps is not None

    def share(every: int) -> float:
        validations = -(-steps // every)
        cost = validations * validation_plan._scoring_cost(job) / (steps * validation_plan._step_cost(job))
        return cost if validations <= 50 else 1.0

    if eval_steps < steps:
        assert share(eval_steps) <= 0.04 < share(eval_steps - 1)
    else:
        assert share(-(-steps // 2)) > 0.04
    assert f"24 dev rows take about {share(eval_steps):.1%} of the training time" in job.plan.eval_reason
    assert f"\nvalidation  {'once' if eval_steps == steps else f'every {eval_steps:,} steps'}" in str(job.plan)


def test_counted_nodes_equal_those_of_trees(make_job: Callable[..., TrainingJob]) -> None:
    prompts = [row.prompt for row in make_job().preflight.dev_rows]
    expected = 0
    for rows in split_by_nodes(prompts, [2] * len(prompts), 200):
        # One context follows each prompt's last token.
        expected += len(build_tree([Branch([*prompts[row], 1], len(prompts[row]) - 1, row) for row in rows]))
    assert validation_plan._count_nodes(prompts, 2, 200) == expected


def test_sampled_rows_estimate_the_same_cost(
    make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    counted = validation_plan._scoring_cost(job)
    monkeypatch.setattr(validation_plan, "_COUNTED_ROWS", 12)
    assert validation_plan._scoring_cost(job) == pytest.approx(counted, rel=0.1)


def test_separate_sequences_cost_more_than_trees(
    make_job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    trees = validation_plan._scoring_cost(job)
    monkeypatch.setattr(validation_plan, "find_tree_problem", lambda _: "it has no attention")
    layers, head = validation_plan._count_weights(job)
    rows = job.preflight.dev_rows
    # Each of the three labels has one token before the end of the turn, so four nodes predict.
    expected = 4 * len(rows) * head + layers * sum(3 * (len(row.prompt) + 1) for row in rows)
    assert validation_plan._scoring_cost(job) == expected > trees


def test_training_of_all_weights_costs_more(make_encoder_recipe: MakeRecipe) -> None:
    adapter, complete = (
        validation_plan._step_cost(plan_job(run_preflight(make_encoder_recipe(DEV, *overrides))))
        for overrides in ([], ["lora=null"])
    )
    assert complete == pytest.approx(1.5 * adapter)


def test_rare_validation_suggests_fewer_rows(make_job: Callable[..., TrainingJob]) -> None:
    plan = make_job("training.max_steps=3").plan
    assert plan.eval_steps == 3 and "data.dev.limit allows more frequent validation" in plan.eval_reason
    assert "validation  once, after the last step: 24 dev rows take about" in str(plan)


def test_no_validation_without_dev_rows(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    for overrides in ([], [DEV, "training.eval_steps=null"]):
        plan = plan_job(run_preflight(make_recipe(f"model.name={tiny_model}", *overrides))).plan
        assert (plan.eval_steps, plan.eval_reason) == (None, "") and "validation" not in str(plan)


def test_recipe_sets_the_steps(make_job: Callable[..., TrainingJob]) -> None:
    job = make_job("training.eval_steps=2")
    assert plan_validation(job)[0] == 2 and plan_validation(job)[1].startswith("the recipe sets training.eval_steps; ")


def test_resumed_plan_keeps_recorded_steps(make_job: Callable[..., TrainingJob]) -> None:
    """A value in the recipe is not replaced, so that the caller finds a difference."""
    job = make_job("training.max_steps=600")
    record = job.plan.record(job.recipe) | {"eval_steps": 77, "eval_reason": "recorded"}
    resumed = job.plan.as_recorded(record, job.recipe)
    assert (resumed.eval_steps, resumed.eval_reason) == (77, "recorded")
    explicit = make_job("training.eval_steps=2")
    assert explicit.plan.as_recorded(record, explicit.recipe).eval_steps == 2


@pytest.mark.parametrize("value", [0, True, "10", 2.5])
def test_damaged_steps_are_refused(make_job: Callable[..., TrainingJob], value: Any) -> None:
    job = make_job()
    with pytest.raises(RunError, match=r"training plan in run\.json is damaged"):
        job.plan.as_recorded(job.plan.record(job.recipe) | {"eval_steps": value}, job.recipe)


def test_run_without_validation_resumes_without_one(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    """Runs of earlier versions recorded no number of steps."""
    job = plan_job(run_preflight(make_recipe(f"model.name={tiny_model}")))
    record = {name: value for name, value in job.plan.record(job.recipe).items() if not name.startswith("eval_")}
    assert job.plan.as_recorded(record, job.recipe) == job.plan


def test_useless_patience_is_reported(make_job: Callable[..., TrainingJob]) -> None:
    common = ["training.max_steps=10", "training.early_stopping_patience=3"]
    assert validation_warnings(make_job(*common, "training.eval_steps=2")) == []
    assert validation_warnings(make_job("training.eval_steps=3")) == []
    (warning,) = validation_warnings(make_job(*common, "training.eval_steps=3"))
    assert "early_stopping_patience 3 has no effect: the run has too few validations (4)" in warning


def test_single_validation_cannot_choose(make_job: Callable[..., TrainingJob]) -> None:
    common = ["training.max_steps=10", "training.keep=best"]
    assert validation_warnings(make_job(*common, "training.eval_steps=5")) == []
    (warning,) = validation_warnings(make_job(*common, "training.eval_steps=10"))
    assert "training.keep: best has no effect: the run has a single validation" in warning


def test_best_step_needs_another_checkpoint(make_job: Callable[..., TrainingJob]) -> None:
    common = ["training.max_steps=10", "training.save_steps=2", "training.save_total_limit=2", "training.eval_steps=2"]
    last, best = (estimate_resources(make_job(*common, f"training.keep={keep}")) for keep in ("last", "best"))
    assert best.checkpoints * 3 == last.checkpoints * 4


def test_validation_adds_optimizer_to_scoring(make_job: Callable[..., TrainingJob]) -> None:
    job = make_job()
    during = estimate_resources(job)
    after = estimate_resources(job.with_plan(replace(job.plan, eval_steps=None)))
    assert during.scoring.adapter == during.training.adapter > after.scoring.adapter
    assert during.scoring.activations == after.scoring.activations
