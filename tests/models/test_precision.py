"""Precision: the chosen data type and the reason, for each kind of device."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError, RunError
from toolkit.models import loading
from toolkit.models.loading import resolve_precision
from toolkit.models.precision import Precision, choose_precision, cpu_has_bfloat16_units
from toolkit.recipe.schema import Recipe

_SLOW = "without AVX512-BF16 or AMX, bfloat16 is slower than float32 on this CPU"


@pytest.mark.parametrize(
    ("requested", "device", "has_bfloat16", "has_bfloat16_units", "name", "reason"),
    [
        ("auto", "cuda", True, False, "bfloat16", "this GPU supports bfloat16"),
        ("auto", "cuda", False, True, "float16", "this GPU does not support bfloat16"),
        ("auto", "cpu", True, True, "bfloat16", "this CPU multiplies bfloat16 in hardware, faster than float32"),
        ("auto", "cpu", True, False, "float32", _SLOW),  # PyTorch supports it, and emulates it
        (
            "auto",
            "cpu",
            False,
            True,
            "float32",
            "Unsloth does not use bfloat16 on this CPU, or UNSLOTH_CPU_BF16 disables it",
        ),
        ("auto", "cpu", False, False, "float32", _SLOW),
        ("float32", "cuda", True, True, "float32", "the recipe sets model.dtype"),
        ("bfloat16", "cpu", True, False, "bfloat16", "the recipe sets model.dtype"),
    ],
)
def test_choice_has_a_reason(
    requested: str, device: str, has_bfloat16: bool, has_bfloat16_units: bool, name: str, reason: str
) -> None:
    precision = choose_precision(requested, device, has_bfloat16=has_bfloat16, has_bfloat16_units=has_bfloat16_units)
    assert (precision.name, precision.reason) == (name, reason)


def test_overflowing_family_avoids_float16() -> None:
    """On a T4, Gemma 3 computes in float32, because its activations become infinite in float16."""
    gpu = {"has_bfloat16": False, "has_bfloat16_units": False, "overflowing_family": "Gemma 3"}
    assert choose_precision("auto", "cuda", **gpu).name == "float32"
    assert choose_precision("auto", "cuda", **gpu | {"has_bfloat16": True}).name == "bfloat16"
    with pytest.raises(ModelError, match="Gemma 3 exceed its range"):
        choose_precision("float16", "cuda", **gpu)


def test_family_excludes_float16(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "DEVICE", "cuda")
    monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: False)
    config = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = make_recipe("model.dtype=auto")
    assert resolve_precision(recipe, tmp_path).name == "float32"
    assert resolve_precision(recipe, MODEL_FOLDER).name == "float16"


def test_float16_on_a_cpu_is_an_error() -> None:
    with pytest.raises(ModelError, match="float16"):
        choose_precision("float16", "cpu", has_bfloat16=True, has_bfloat16_units=True)


def test_emulated_bfloat16_is_an_error() -> None:
    with pytest.raises(ModelError, match="bfloat16, but this CPU emulates it"):
        choose_precision("bfloat16", "cpu", has_bfloat16=False, has_bfloat16_units=False)
    assert choose_precision("bfloat16", "cpu", has_bfloat16=True, has_bfloat16_units=True).name == "bfloat16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_bf16 amx_tile amx_bf16 amx_int8\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 clzero\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f avx512_vnni\nbugs : amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_units_are_read_from_cpu_flags(tmp_path: Path, text: str | None, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text, encoding="utf-8")
    assert cpu_has_bfloat16_units(cpuinfo) is expected


@pytest.mark.parametrize("has_bfloat16_units", [True, False])
def test_resume_keeps_the_recorded_precision(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, has_bfloat16_units: bool
) -> None:
    monkeypatch.setattr(loading, "DEVICE", "cpu")
    monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: True)
    monkeypatch.setattr(loading, "cpu_has_bfloat16_units", lambda: has_bfloat16_units)
    recipe = make_recipe("model.dtype=auto")
    for name in ("float32", "bfloat16"):
        recorded = Precision.from_record({"precision": {"name": name, "reason": "recorded"}})
        assert resolve_precision(recipe, MODEL_FOLDER, recorded) == recorded
    in_float32 = make_recipe("model.dtype=float32")
    assert resolve_precision(in_float32, MODEL_FOLDER, Precision("bfloat16", "recorded")).name == "float32"
    # A GPU's float16 cannot be kept on a CPU. The current choice is returned, and the caller reports the difference.
    current = resolve_precision(recipe, MODEL_FOLDER)
    assert resolve_precision(recipe, MODEL_FOLDER, Precision("float16", "recorded")) == current


def test_damaged_precision_record_is_an_error() -> None:
    assert Precision.from_record({}) is None
    for damaged in ({"name": "float8", "reason": "?"}, {"name": "float32"}, None):
        with pytest.raises(RunError, match="has no precision"):
            Precision.from_record({"status": "running", "precision": damaged})
