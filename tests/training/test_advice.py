"""What a run needs is that of its largest step, and advice that is followed, through the recipe's own checks, helps."""

from collections.abc import Callable
from typing import Any

import pytest

from toolkit.preflight import Preflight, run_preflight
from toolkit.recipe import Recipe
from toolkit.training.outlook import advice, largest_part, look_ahead, verdict
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


def test_no_advice_is_given_where_nothing_would_help(make_recipe: MakeRecipe) -> None:
    before = _before(make_recipe)
    outlook = look_ahead(before, make_plan(before), _gpu(1_000_000))
    assert advice(before, outlook) is None
    assert "no key of the recipe helps" in verdict(before, outlook)
