"""A toolkit that fine-tunes a small language model into a classifier, evaluates it and exports it to a GGUF file.

    import toolkit

    run = toolkit.train("recipes/quickstart.yaml", output_dir="outputs/try")
    print(run.evaluate().accuracy)

Names are imported on first use, so that `import toolkit` returns immediately.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.api.averaging import average_runs
    from toolkit.api.comparison import compare
    from toolkit.api.import_adapter import import_adapter
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
        SealError,
        StudyError,
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
    from toolkit.studies.study import StudyResult, run_study

__version__ = "0.1.0"

# OpenMP reads this when torch or llama.cpp first load it. Its threads wait for each other many times per step. If they
# spin for long, they take the cores from other processes, and a step that runs next to others takes twice as long. If
# they sleep at once, waking them up makes a step a third slower. A short spin avoids both.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# On a CPU, torch and oneDNN each cache 1,024 compiled kernels, 0.6 MB per shape of a small bfloat16 layer. Nearly every
# tree has new shapes, so runs grew by up to a gigabyte (pytorch/pytorch#98688). The layers of a step share their
# kernels, so 64 are enough (docs/memory.md).
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")
# When llama.cpp aborts, it starts a debugger for a backtrace, which fills the terminal.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

_MODULES = {
    "Classifier": "toolkit.inference.classifier",
    "Comparison": "toolkit.evaluation.comparison",
    "DataError": "toolkit.errors",
    "Evaluation": "toolkit.evaluation.evaluation",
    "ExportError": "toolkit.errors",
    "ExportResult": "toolkit.export.exporter",
    "ModelError": "toolkit.errors",
    "ParityError": "toolkit.errors",
    "SealError": "toolkit.errors",
    "PreflightReport": "toolkit.planning.preflight_report",
    "Recipe": "toolkit.recipe.schema",
    "RecipeError": "toolkit.errors",
    "Run": "toolkit.api.run",
    "RunError": "toolkit.errors",
    "StudyError": "toolkit.errors",
    "StudyResult": "toolkit.studies.study",
    "ToolkitError": "toolkit.errors",
    "TrainingError": "toolkit.errors",
    "average_runs": "toolkit.api.averaging",
    "compare": "toolkit.api.comparison",
    "dry_run": "toolkit.api.training",
    "import_adapter": "toolkit.api.import_adapter",
    "load_recipe": "toolkit.recipe.loading",
    "open_run": "toolkit.api.run",
    "preflight": "toolkit.api.preflight",
    "run_study": "toolkit.studies.study",
    "train": "toolkit.api.training",
}
"""The module that defines each public name."""

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
    "SealError",
    "StudyError",
    "StudyResult",
    "ToolkitError",
    "TrainingError",
    "average_runs",
    "compare",
    "dry_run",
    "import_adapter",
    "load_recipe",
    "open_run",
    "preflight",
    "run_study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # later accesses find the name in the module and do not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
