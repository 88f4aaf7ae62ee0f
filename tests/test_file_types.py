"""File types: what a GGUF of each will take of the disk, from numbers of weights alone."""

from collections.abc import Callable
from typing import get_args

import pytest

from toolkit.export.gguf import gguf_bytes
from toolkit.file_types import FILE_TYPES
from toolkit.preflight import run_preflight
from toolkit.recipe import GgufType, Recipe
from toolkit.training.outlook import look_ahead
from toolkit.training.plan import make_plan


@pytest.mark.parametrize("file_type", get_args(GgufType))
def test_an_export_of_every_type_is_predicted_as_large_as_it_will_be_written(
    make_recipe: Callable[..., Recipe], file_type: GgufType
) -> None:
    before = run_preflight(make_recipe(f"export.gguf=[{file_type}]"))
    base, matrices = before.parameters.total - before.parameters.trainable, before.parameters.quantisable
    predicted = FILE_TYPES[file_type].file_bytes(matrices, base - matrices)
    assert predicted == pytest.approx(gguf_bytes(before.folder, file_type), rel=0.01)
    assert look_ahead(before, make_plan(before)).export > 2 * base + predicted - 1
