"""What a run needs is that of its largest step, and advice that is followed, through the recipe's own checks, helps."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.embedded import nli_fr
from toolkit.preflight import Preflight, run_preflight
from toolkit.recipe import Recipe
from toolkit.training.outlook import _changes, advice, largest_part, look_ahead, verdict
from toolkit.training.plan import Device, make_plan

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("batching", ["padded", "prefix_tree"])
def test_the_longest_row_counts_however_late_it_is_read(make_recipe: MakeRecipe, batching: str) -> None:
    recipe = make_recipe(
        "data.train={path: embedded:nli-fr, split: train, limit: 200}",
        f"training={{batch_size: 2, epochs: 1.0, batching: {batching}}}",
    )
    before = run_preflight(recipe)
    plan = make_plan(before)
    assert plan.steps == 100
    longest = before.tokens.longest - 1  # the last token of a row is not read
    assert largest_part(before, plan).tokens >= (2 * longest if batching == "padded" else longest)


def _before(make_recipe: MakeRecipe, *overrides: str) -> Preflight[Any]:
    return run_preflight(make_recipe("training.batch_size=48", "training.loss_on=full_text", "lora.r=64", *overrides))


@pytest.mark.parametrize("share", [0.05, 0.5], ids=["hardly enough", "half"])
@pytest.mark.parametrize(
    "batching",
    [
        ["training.batching=padded", "training.micro_batch_size=48"],
        ["training.batching=prefix_tree", "training.batch_tokens=100000"],
        ["training.batch_tokens=100000"],
    ],
    ids=["padded", "tree", "auto"],
)
def test_what_is_advised_can_be_set_and_makes_it_fit(
    make_recipe: MakeRecipe, batching: list[str], share: float
) -> None:
    before = _before(make_recipe, *batching)
    use = look_ahead(before, make_plan(before, device=_gpu(10**12)), _gpu(10**12)).training
    movable = use.activations + use.logits + use.working
    device = _gpu(use.total - movable + round(share * movable))
    outlook = look_ahead(before, make_plan(before, device=device), device)
    assert not outlook.fits and "does not fit" in verdict(before, outlook)
    advised = advice(before, outlook)
    assert advised is not None and advised.startswith("set ")
    keys = dict(change.split("=") for change in advised.removeprefix("set ").split(", "))
    kept = [one for one in batching if one.split("=")[0] not in keys]
    changed = run_preflight(
        make_recipe("training.batch_size=48", "training.loss_on=full_text", "lora.r=64", *kept,
                    *(f"{key}={value}" for key, value in keys.items()))
    )  # fmt: skip
    assert look_ahead(changed, make_plan(changed, device=device), device).fits


def _gpu(memory: int) -> Device:
    return Device("a GPU", "cuda", memory)


def test_no_part_is_advised_that_is_larger_than_the_one_that_is_set(make_recipe: MakeRecipe) -> None:
    small = ["training.batching=prefix_tree", "training.batch_tokens=20", "evaluation.batch_tokens=20"]
    before = run_preflight(make_recipe(*small))
    assert before.tokens.longest > 20
    outlook = look_ahead(before, make_plan(before, device=_gpu(10**12)), _gpu(10**12))
    # Too little for both peaks; `auto` would take parts of the longest row.
    none = replace(outlook, device=_gpu(outlook.scoring.weights))
    keys = [key for key, _ in _changes(before, none)]
    assert "training.gradient_checkpointing" in keys
    assert "training.batch_tokens" not in keys and "evaluation.batch_tokens" not in keys


def test_an_evaluation_row_longer_than_all_training_rows_counts(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [*nli_fr.generate("dev")][:6]
    short = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'short.jsonl', rows)}}}"))
    rows[3] = {**rows[3], "premise": " ".join([rows[3]["premise"]] * 12)}
    long = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'long.jsonl', rows)}}}"))
    assert long.tokens == short.tokens and long.longest_row > 2 * short.longest_row
    device = _gpu(10**12)
    scoring = [look_ahead(before, make_plan(before, device=device), device).scoring for before in (short, long)]
    assert scoring[1].activations > scoring[0].activations
    advised = dict(_changes(long, replace(look_ahead(long, make_plan(long, device=device), device), device=_gpu(1))))
    assert advised["evaluation.batch_tokens"] == long.longest_row


def test_shortened_evaluation_rows_are_reported(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [*nli_fr.generate("dev")][:6]
    rows[3] = {**rows[3], "premise": " ".join([rows[3]["premise"]] * 99)}
    before = run_preflight(make_recipe(f"data.eval={{path: {_write(tmp_path / 'long.jsonl', rows)}}}"))
    assert "shortened   1 evaluation rows lose the end of their premise" in before.report()
    assert "training rows lose" not in before.report() and before.record()["scored_tokens"]["shortened_rows"] == 1


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_no_advice_is_given_where_nothing_would_help(make_recipe: MakeRecipe) -> None:
    before = _before(make_recipe)
    outlook = look_ahead(before, make_plan(before), _gpu(1_000_000))
    assert advice(before, outlook) is None
    assert "no key of the recipe helps" in verdict(before, outlook)
