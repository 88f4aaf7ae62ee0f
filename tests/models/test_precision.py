"""Precision: the choice and its reason, for each kind of device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import ModelError, RunError
from toolkit.models import loading
from toolkit.models.loading import precision_for
from toolkit.models.precision import Precision, choose_precision, cpu_has_amx
from toolkit.recipe.schema import Recipe

_SLOW = "this CPU has no AMX in use, and without it bfloat16 is slower than float32"


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "has_amx", "name", "reason"),
    [
        ("auto", "cuda", True, False, "bfloat16", "this GPU computes in bfloat16"),
        ("auto", "cuda", False, True, "float16", "this GPU does not compute in bfloat16"),
        ("auto", "cpu", True, True, "bfloat16", "this CPU has AMX, which multiplies bfloat16 faster than float32"),
        ("auto", "cpu", True, False, "float32", _SLOW),  # AVX512-BF16 alone
        ("auto", "cpu", False, True, "float32", _SLOW),  # switched off: Unsloth would train in float32
        ("auto", "cpu", False, False, "float32", _SLOW),
        ("float32", "cuda", True, True, "float32", "the recipe sets model.dtype"),
        ("bfloat16", "cpu", True, False, "bfloat16", "the recipe sets model.dtype"),
    ],
)
def test_choice_has_a_reason(
    wanted: str, device: str, has_bfloat16: bool, has_amx: bool, name: str, reason: str
) -> None:
    chosen = choose_precision(wanted, device, has_bfloat16=has_bfloat16, has_amx=has_amx)
    assert (chosen.name, chosen.reason) == (name, reason)


def test_float16_on_a_cpu_is_refused_rather_than_replaced() -> None:
    with pytest.raises(ModelError, match="float16"):
        choose_precision("float16", "cpu", has_bfloat16=True, has_amx=True)


def test_bfloat16_on_a_cpu_that_emulates_it_is_refused() -> None:
    with pytest.raises(ModelError, match="bfloat16, but this CPU emulates it"):
        choose_precision("bfloat16", "cpu", has_bfloat16=False, has_amx=False)
    assert choose_precision("bfloat16", "cpu", has_bfloat16=True, has_amx=True).name == "bfloat16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_bf16 amx_tile amx_bf16 amx_int8\n", True),
        ("processor : 0\nflags\t\t: fpu avx512_bf16\nbugs : amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_amx_is_read_from_the_flags(tmp_path: Path, text: str | None, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text, encoding="utf-8")
    assert cpu_has_amx(cpuinfo) is expected


@pytest.mark.parametrize("has_amx", [True, False])
def test_resume_keeps_the_recorded_type(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, has_amx: bool
) -> None:
    monkeypatch.setattr(loading, "DEVICE", "cpu")
    monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: True)
    monkeypatch.setattr(loading, "cpu_has_amx", lambda: has_amx)
    recipe = make_recipe("model.dtype=auto")
    for name in ("float32", "bfloat16"):
        recorded = Precision.from_record({"precision": {"name": name, "reason": "as then"}})
        assert precision_for(recipe, recorded) == recorded
    assert precision_for(make_recipe("model.dtype=float32"), Precision("bfloat16", "as then")).name == "float32"
    # A GPU's type cannot be kept: today's is returned, and the caller refuses the difference.
    fresh = precision_for(recipe)
    assert precision_for(recipe, Precision("float16", "as then")) == fresh


def test_damaged_recorded_precision_is_refused() -> None:
    assert Precision.from_record({}) is None
    for damaged in ({"name": "float8", "reason": "?"}, {"name": "float32"}, None):
        with pytest.raises(RunError, match="has no precision"):
            Precision.from_record({"status": "running", "precision": damaged})
