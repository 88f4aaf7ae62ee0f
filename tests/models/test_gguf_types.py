"""File types: the predicted size of a GGUF file of each type."""

from collections.abc import Callable
from typing import get_args

import pytest

from toolkit.export.gguf_writer import gguf_bytes
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.planning.resource_estimate import estimate_resources
from toolkit.recipe.schema import Recipe
from toolkit.recipe.section import GgufType


@pytest.mark.parametrize("file_type", get_args(GgufType))
def test_file_size_is_predicted(make_recipe: Callable[..., Recipe], file_type: GgufType) -> None:
    preflight = run_preflight(make_recipe(f"export.gguf=[{file_type}]"))
    base, matrices = preflight.parameters.total - preflight.parameters.trainable, preflight.parameters.quantizable
    predicted = FILE_TYPES[file_type].file_bytes(matrices, base - matrices)
    assert predicted == pytest.approx(gguf_bytes(preflight.folder, file_type), rel=0.01)
    assert estimate_resources(plan_job(preflight)).export > 2 * base + predicted - 1
