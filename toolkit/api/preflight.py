"""The pre-flight, from Python."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.api.imports import import_backend
from toolkit.api.recipes import resolve_recipe
from toolkit.data.sources import check_files_exist
from toolkit.errors import RecipeError
from toolkit.recipe.loading import Overrides
from toolkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from toolkit.planning.preflight_report import PreflightReport
    from toolkit.training.probe import Probe


def preflight(
    recipe: str | Path | Recipe,
    overrides: Overrides = (),
    *,
    memory: int | None = None,
    weights: bool = False,
    probe: bool = False,
) -> "PreflightReport":
    """Check a recipe's data, tokenizer and configuration, and predict its memory; no weights are loaded.

    Args:
        recipe: a YAML file, or a recipe.
        overrides: changes by dotted keys, e.g. `{"training.max_steps": 50}`.
        memory: bytes of a GPU to ask about, instead of this device.
        weights: also fetch the weights of a hub model.
        probe: where the recipe fits, load the model, make a few steps and time them; see `measure_steps`.

    Raises:
        ToolkitError: the recipe cannot work, or `memory` is asked for an encoder, whose memory nothing predicts.
    """
    checked = resolve_recipe(recipe, overrides)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise RecipeError(f"memory is {memory!r}, which is not a number of bytes.", hint="Give 16_000_000_000, say.")
    if memory and checked.model.kind != "decoder":
        raise RecipeError(
            f"memory={memory} cannot be answered for model.kind {checked.model.kind}: memory is predicted for decoders "
            "alone.",
            hint="Measure it here: leave out memory, and give probe=True.",
        )
    check_files_exist(checked.data.train, checked.data.eval)
    import_backend()
    from toolkit.planning.device import Device
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight
    from toolkit.planning.preflight_report import PreflightReport

    target_device = Device(f"a GPU of {memory / 1e9:.3g} GB", "cuda", memory) if memory else None
    report = PreflightReport(plan_job(run_preflight(checked, weights=weights or probe)), target_device)
    return report if not probe or report.fits is False else replace(report, probe=measure_steps(report))


def measure_steps(report: "PreflightReport") -> "Probe":
    """Load the model and time a few steps of the real trainer, which leave nothing behind.

    Raises:
        ToolkitError: the model cannot be loaded, or a step has numbers that cannot be right.
    """
    from toolkit.training.probe import probe

    return probe(report.job)
