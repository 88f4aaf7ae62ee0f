"""Suggestions: the largest step decides what a run needs, and suggested changes are valid and make the recipe fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.batching.sampling import LARGE_TREE_NODES, MAX_TREE_NODES
from toolkit.embedded import nli_fr
from toolkit.planning.device import T4, Device
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import Preflight, run_preflight
from toolkit.planning.resource_estimate import estimate_resources, largest_micro_batch
from toolkit.planning.suggestions import _changes, _with_changes, suggest_changes, verdict
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("batching", ["padded", "prefix_tree"])
def test_longest_row_counts_in_any_step(make_recipe: MakeRecipe, batching: str) -> None:
    recipe = make_recipe(
        "data.train={path: embedded:nli-fr, split: train, limit: 200}",
        f"training={{batch_size: 2, epochs: 1.0, batching: {batching}}}",
    )
    job = plan_job(run_preflight(recipe))
    assert job.plan.steps == 100
    longest = job.preflight.tokens.longest - 1  # the last token of a row is only predicted
    assert largest_micro_batch(job).tokens >= (2 * longest if batching == "padded" else longest)


def _preflight(make_recipe: MakeRecipe, *overrides: str) -> Preflight[Any]:
    return run_preflight(make_recipe("training.batch_size=48", "training.loss_on=full_text", "lora.r=64", *overrides))


@pytest.mark.parametrize("share", [0.05, 0.5], ids=["barely enough", "half"])
@pytest.mark.parametrize(
    "batching",
    [
        ["training.batching=padded", "training.micro_batch_size=48"],
        ["training.batching=prefix_tree", "training.batch_tokens=100000"],
        ["training.batch_tokens=100000"],
    ],
    ids=["padded", "tree", "auto"],
)
def test_suggested_changes_make_the_recipe_fit(make_recipe: MakeRecipe, batching: list[str], share: float) -> None:
    preflight = _preflight(make_recipe, *batching)
    memory = estimate_resources(plan_job(preflight, _gpu(10**12))).training
    reducible = memory.activations + memory.logits + memory.working
    device = _gpu(memory.total - reducible + round(share * reducible))
    estimate = estimate_resources(plan_job(preflight, device))
    assert not estimate.fits and "does not fit" in verdict(preflight, estimate)
    suggestion = suggest_changes(preflight, estimate)
    assert suggestion is not None and suggestion.startswith("set ")
    changes = dict(change.split("=") for change in suggestion.removeprefix("set ").split(", "))
    kept = [override for override in batching if override.split("=")[0] not in changes]
    changed = run_preflight(
        make_recipe("training.batch_size=48", "training.loss_on=full_text", "lora.r=64", *kept,
                    *(f"{key}={value}" for key, value in changes.items()))
    )  # fmt: skip
    assert estimate_resources(plan_job(changed, device)).fits


def _gpu(memory: int) -> Device:
    return Device("a GPU", "cuda", memory)


def test_larger_micro_batch_is_never_suggested(make_recipe: MakeRecipe) -> None:
    small = ["training.batching=prefix_tree", "training.batch_tokens=20", "evaluation.batch_tokens=20"]
    preflight = run_preflight(make_recipe(*small))
    assert preflight.tokens.longest > 20
    estimate = estimate_resources(plan_job(preflight, _gpu(10**12)))
    # Too little memory for either peak. `auto` would make micro-batches as large as the longest row.
    too_small = replace(estimate, device=_gpu(estimate.scoring.weights))
    keys = [key for key, _ in _changes(preflight, too_small)]
    assert "training.gradient_checkpointing" in keys
    assert "training.batch_tokens" not in keys and "evaluation.batch_tokens" not in keys


def test_longest_evaluation_row_counts(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [*nli_fr.load_split("dev")][:6]
    short = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'short.jsonl', rows)}}}"))
    rows[3] = {**rows[3], "premise": " ".join([rows[3]["premise"]] * 12)}
    long = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'long.jsonl', rows)}}}"))
    assert long.tokens == short.tokens and long.longest_row > 2 * short.longest_row
    device = _gpu(10**12)
    # A tree of many rows can be as large as one long row. Trees of one row cannot.
    single = [
        replace(preflight, recipe=_with_changes(preflight.recipe, {"evaluation.batch_tokens": 20}))
        for preflight in (short, long)
    ]
    scoring = [estimate_resources(plan_job(preflight, Device("a CPU", "cpu", 10**12))).scoring for preflight in single]
    assert scoring[1].activations > scoring[0].activations
    changes = dict(_changes(long, replace(estimate_resources(plan_job(long, device)), device=_gpu(1))))
    assert changes["evaluation.batch_tokens"] == long.longest_row


def test_shortened_evaluation_rows_are_reported(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [*nli_fr.load_split("dev")][:6]
    rows[3] = {**rows[3], "premise": " ".join([rows[3]["premise"]] * 99)}
    preflight = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'long.jsonl', rows)}}}"))
    assert "truncated   the premises of 1 evaluation rows are cut to fit" in preflight.report()
    assert "training rows lose" not in preflight.report() and preflight.record()["scored_tokens"]["shortened_rows"] == 1


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_no_suggestion_if_nothing_helps(make_recipe: MakeRecipe) -> None:
    preflight = _preflight(make_recipe)
    estimate = estimate_resources(replace(plan_job(preflight), device=_gpu(1_000_000)))
    assert suggest_changes(preflight, estimate) is None
    assert "no recipe setting helps" in verdict(preflight, estimate)


def test_checkpointing_depends_on_the_memory(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight = run_preflight(make_recipe())
    for memory, is_needed in ((10**12, False), (estimate_resources(plan_job(preflight)).training.weights, True)):
        job = plan_job(preflight, _gpu(memory))
        assert job.plan.gradient_checkpointing is is_needed
        recorded = job.plan.record(preflight.recipe) | {"gradient_checkpointing": not is_needed}
        assert job.plan.as_recorded(recorded, preflight.recipe).gradient_checkpointing is not is_needed
    assert not plan_job(preflight).plan.gradient_checkpointing, "a CPU never recomputes by itself"
    assert plan_job(preflight, T4).plan.batch_tokens == MAX_TREE_NODES
    monkeypatch.setattr(Device, "has_large_trees", True)
    assert plan_job(preflight, T4).plan.batch_tokens == LARGE_TREE_NODES


def test_lengths_on_a_gpu_are_multiples(make_recipe: MakeRecipe) -> None:
    job = plan_job(run_preflight(make_recipe("training.batching=prefix_tree")), T4)
    micro_batches = job.collator()(job.first_batches(1)[0])["micro_batches"]
    assert all(micro_batch["input_ids"].shape[1] % 128 == 0 for micro_batch in micro_batches)
