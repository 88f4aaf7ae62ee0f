"""The verdict on a resource estimate, and the changes that make a recipe fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from toolkit.inference.loading import scoring_batch_tokens
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import Preflight
from toolkit.planning.resource_estimate import ResourceEstimate, estimate_resources
from toolkit.recipe.loading import format_override
from toolkit.utils.formatting import format_bytes


def suggest_changes(preflight: Preflight[Any], estimate: ResourceEstimate) -> str | None:
    """Return the fewest changes, in the order of `_changes`, with which the recipe is predicted to fit, or None."""
    device, changes = estimate.device, dict[str, Any]()
    for key, value in _changes(preflight, estimate):
        changes[key] = value
        recipe = _with_changes(preflight.recipe, changes)
        candidate = replace(preflight, recipe=recipe)
        # Each change is planned again, because `auto` values depend on each other.
        if estimate_resources(plan_job(candidate, device)).fits:
            return "set " + ", ".join(format_override(name, new_value) for name, new_value in changes.items())
    return None


def _changes(preflight: Preflight[Any], estimate: ResourceEstimate) -> Iterator[tuple[str, Any]]:
    """Yield changes, free ones before those that cost speed. None of them makes a micro-batch larger."""
    recipe, device = preflight.recipe, estimate.device
    if estimate.scoring.total > device.memory and preflight.longest_row < scoring_batch_tokens(recipe, device.kind):
        yield "evaluation.batch_tokens", preflight.longest_row
    is_tree = plan_job(preflight, device).plan.is_tree
    key, smallest = ("batch_tokens", preflight.tokens.longest) if is_tree else ("micro_batch_size", 1)
    configured = getattr(recipe.training, key)
    if configured != "auto":
        # `auto` can be larger than the configured value: for trees, it is never below the longest row.
        auto_preflight = replace(preflight, recipe=_with_changes(recipe, {f"training.{key}": "auto"}))
        if getattr(plan_job(auto_preflight, device).plan, key) < configured:
            yield f"training.{key}", "auto"
    if recipe.training.gradient_checkpointing is not True:
        yield "training.gradient_checkpointing", True
    if configured == "auto" or smallest < configured:
        yield f"training.{key}", smallest
    if not recipe.model.load_in_4bit and device.kind == "cuda" and recipe.model.kind == "decoder":
        yield "model.load_in_4bit", True


def _with_changes(recipe: Any, changes: dict[str, Any]) -> Any:
    for key, value in changes.items():
        section, name = key.split(".")
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
    return recipe


def verdict(preflight: Preflight[Any], estimate: ResourceEstimate) -> str:
    """Return a sentence saying whether a recipe fits and, if not, what to change."""
    name, usage = estimate.device.name, memory_usage(estimate)
    return (
        f"fits on {name}: {usage}"
        if estimate.fits
        else f"does not fit on {name}: {usage}; {remedy(preflight, estimate)}"
    )


def memory_usage(estimate: ResourceEstimate) -> str:
    """Return the predicted memory of training and scoring, and the memory of the device."""
    training, scoring, memory = estimate.training.total, estimate.scoring.total, estimate.device.memory
    return f"training {format_bytes(training)}, scoring {format_bytes(scoring)} of {format_bytes(memory)}"


def remedy(preflight: Preflight[Any], estimate: ResourceEstimate) -> str:
    """Return the changes that make a recipe fit, or that only a smaller model or more memory would help."""
    return suggest_changes(preflight, estimate) or "no recipe setting helps: use a smaller model or more memory"
