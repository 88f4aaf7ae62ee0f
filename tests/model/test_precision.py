"""Precision: the choice and its reason, for each kind of device."""

import pytest

from toolkit.errors import ModelError
from toolkit.model.precision import choose_precision


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "name", "reason"),
    [
        ("auto", "cuda", True, "bfloat16", "this GPU computes in bfloat16"),
        ("auto", "cuda", False, "float16", "this GPU does not compute in bfloat16"),
        ("auto", "cpu", True, "bfloat16", "this CPU computes in bfloat16"),
        ("auto", "cpu", False, "float32", "this CPU computes in neither bfloat16 nor float16"),
        ("float32", "cuda", True, "float32", "the recipe sets model.dtype"),
    ],
)
def test_the_choice_has_its_reason(wanted: str, device: str, has_bfloat16: bool, name: str, reason: str) -> None:
    chosen = choose_precision(wanted, device, has_bfloat16=has_bfloat16)
    assert (chosen.name, chosen.reason) == (name, reason)


def test_float16_on_a_cpu_is_refused_rather_than_replaced() -> None:
    with pytest.raises(ModelError, match="float16"):
        choose_precision("float16", "cpu", has_bfloat16=True)


def test_bfloat16_on_a_cpu_that_emulates_it_is_refused() -> None:
    with pytest.raises(ModelError, match="bfloat16, but this CPU emulates it"):
        choose_precision("bfloat16", "cpu", has_bfloat16=False)
    assert choose_precision("bfloat16", "cpu", has_bfloat16=True).name == "bfloat16"
