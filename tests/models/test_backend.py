"""The door to Unsloth: its private names that the toolkit relies on, and what they do."""

import inspect
import os

import pytest

from toolkit.models import backend
from toolkit.models.backend import keep_float32


def test_float32_is_kept_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from unsloth.models import loader

    monkeypatch.setattr(backend, "DEVICE", "cuda")
    monkeypatch.setenv("UNSLOTH_MIXED_PRECISION", "float32")
    families = loader.FORCE_FLOAT32
    assert any("gemma3" in name for name in families)
    with keep_float32(True):
        os.environ["SET_BY_UNSLOTH"] = "1"
        assert loader.FORCE_FLOAT32 == [] and os.environ["UNSLOTH_MIXED_PRECISION"] == "bfloat16"
    assert families == loader.FORCE_FLOAT32 and os.environ["UNSLOTH_MIXED_PRECISION"] == "float32"
    assert os.environ.pop("SET_BY_UNSLOTH") == "1"
    with keep_float32(False):
        assert families == loader.FORCE_FLOAT32


def test_unsloth_still_reads_these_names() -> None:
    from unsloth.models import loader, rl

    assert "in FORCE_FLOAT32" in inspect.getsource(loader.FastModel)
    source = inspect.getsource(rl)
    assert "mixed_precision_dtype = os.environ.get('UNSLOTH_MIXED_PRECISION'" in source
    assert "elif mixed_precision_dtype == 'bfloat16'" in source
