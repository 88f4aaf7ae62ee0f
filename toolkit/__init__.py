"""Fine-tune a small language model into a classifier, measure it, and ship it as a GGUF.

    import toolkit

    run = toolkit.train("recipes/quickstart.yaml", output_dir="outputs/try")
    print(run.evaluate().accuracy)

Names are imported when they are first used: `import toolkit` alone takes no time that one would notice.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api.comparison import compare
    from toolkit.api.preflight import preflight
    from toolkit.api.run import Run, open_run
    from toolkit.api.training import dry_run, train
    from toolkit.errors import (
        DataError,
        ExportError,
        ModelError,
        ParityError,
        RecipeError,
        RunError,
        ToolkitError,
        TrainingError,
    )
    from toolkit.evaluation.comparison import Comparison
    from toolkit.evaluation.evaluation import Evaluation
    from toolkit.export.exporter import ExportResult
    from toolkit.inference.classifier import Classifier
    from toolkit.planning.preflight_report import PreflightReport
    from toolkit.recipe.loading import load_recipe
    from toolkit.recipe.schema import Recipe

__version__ = "0.1.0"

# Read when torch or llama.cpp first load OpenMP. Its threads wait for each other many times a step: spinning long, they
# starve whatever else runs (and a step beside it takes twice as long), sleeping at once, they cost a third of a step.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Where llama.cpp aborts, it would start a debugger that fills the terminal.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

_HOMES = {
    "Classifier": "toolkit.inference.classifier",
    "Comparison": "toolkit.evaluation.comparison",
    "DataError": "toolkit.errors",
    "Evaluation": "toolkit.evaluation.evaluation",
    "ExportError": "toolkit.errors",
    "ExportResult": "toolkit.export.exporter",
    "ModelError": "toolkit.errors",
    "ParityError": "toolkit.errors",
    "PreflightReport": "toolkit.planning.preflight_report",
    "Recipe": "toolkit.recipe.schema",
    "RecipeError": "toolkit.errors",
    "Run": "toolkit.api.run",
    "RunError": "toolkit.errors",
    "ToolkitError": "toolkit.errors",
    "TrainingError": "toolkit.errors",
    "compare": "toolkit.api.comparison",
    "dry_run": "toolkit.api.training",
    "load_recipe": "toolkit.recipe.loading",
    "open_run": "toolkit.api.run",
    "preflight": "toolkit.api.preflight",
    "train": "toolkit.api.training",
}
"""Where each public name is defined."""

__all__ = [
    "Classifier",
    "Comparison",
    "DataError",
    "Evaluation",
    "ExportError",
    "ExportResult",
    "ModelError",
    "ParityError",
    "PreflightReport",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "ToolkitError",
    "TrainingError",
    "compare",
    "dry_run",
    "load_recipe",
    "open_run",
    "preflight",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
