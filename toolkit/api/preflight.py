"""The Python functions of the preflight."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.api.imports import import_backend
from toolkit.api.recipes import resolve_recipe
from toolkit.data.sources import check_files_exist
from toolkit.errors import RecipeError
from toolkit.recipe.loading import Overrides
from toolkit.recipe.schema import Recipe
from toolkit.utils.formatting import format_bytes

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
    """Check a recipe's data, tokenizer and configuration, and predict its memory, without loading weights.

    Args:
        recipe: A YAML file, or a recipe.
        overrides: Changes by dotted keys, e.g. `{"training.max_steps": 50}`.
        memory: The memory in bytes of a GPU to plan for instead of this device.
        weights: Also download the weights of a model from the Hub.
        probe: If the recipe fits, load the model and time a few steps; see `measure_steps`.

    Raises:
        ToolkitError: If the recipe cannot work, or `memory` is not a number of bytes.
    """
    checked = resolve_recipe(recipe, overrides)
    # bool is a subclass of int, so memory=True would otherwise mean one byte.
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise RecipeError(
            f"memory is {memory!r}, which is not a number of bytes.",
            hint="Pass a positive integer, e.g. 16_000_000_000.",
        )
    check_files_exist(*checked.data.sources)
    import_backend()
    from toolkit.planning.device import Device
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight
    from toolkit.planning.preflight_report import PreflightReport

    target_device = Device(f"a GPU with {format_bytes(memory)}", "cuda", memory) if memory else None
    # A probe loads the model, so its weights are needed in any case.
    report = PreflightReport(plan_job(run_preflight(checked, fetch_weights=weights or probe)), target_device)
    # A probe of a recipe that does not fit would only run out of memory.
    return report if not probe or report.fits is False else replace(report, probe=measure_steps(report))


def measure_steps(report: "PreflightReport") -> "Probe":
    """Load the model and time a few steps of the real trainer, without writing anything.

    Raises:
        ToolkitError: If the model cannot be loaded, or training has to stop.
    """
    from toolkit.training.probe import probe

    return probe(report.job)
