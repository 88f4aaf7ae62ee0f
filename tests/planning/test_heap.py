"""Holes in the heap: which blocks a layer frees, and which of them a narrower block fills."""

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import ROOT
from toolkit.batching.collators import PaddedCollator, training_row
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import attach_lora
from toolkit.planning.heap import hole_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, freed_widths, kept_widths
from toolkit.prompts.encoder import EncodedRow
from toolkit.recipe.schema import Lora
from toolkit.training import training_backends
from toolkit.training.objective import summed_loss

ROWS = [training_row(EncodedRow((*range(1, 40 + i % 3), 7), (9, 2))) for i in range(6)]
ALL: tuple[Any, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SQUARE = ModelShape(layers=2, hidden=64, attention=64, keys=64, intermediate=64, heads=4, vocabulary=100)
PLAIN = Lora(dropout=0)


class _Made(TorchDispatchMode):
    """Counts the bytes of every new block, freed or not."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.seen, self.bytes = tokens, {}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        read = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        for one in result if isinstance(result, tuple) else (result,):
            is_new = isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in read
            # DoRA's blocks of a weight's size are no multiple of the tokens.
            if is_new and one.numel() >= 16 * self.tokens and one.numel() % self.tokens == 0:
                self.bytes += one.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", [ALL[:4], ALL, ("q_proj", "down_proj")], ids=["attention", "all", "two"])
def test_what_a_layer_makes_is_what_it_keeps_and_what_it_frees(
    tiny_model: Path, dropout: float, targets: tuple[Any, ...], use_dora: bool
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    lora = Lora(r=4, alpha=8, dropout=dropout, target_modules=targets, use_dora=use_dora)
    model = attach_lora(base, lora, seed=0, gradient_checkpointing=False).train()
    shape = ModelShape.from_config(base.config)
    (part,) = PaddedCollator(6, "completion")(ROWS)["parts"]
    layers = []
    for count in (shape.layers, shape.layers - 1):  # what one layer more makes, its mask included
        model.get_base_model().model.layers = model.get_base_model().model.layers[:count]
        with _Made(part["input_ids"].numel()) as made:
            summed_loss(model, model.get_base_model().get_output_embeddings(), part)
        layers.append(made.bytes)
    length = part["input_ids"].shape[1]
    told = length + sum(kept_widths(shape, lora)) + sum(freed_widths(shape, lora))
    assert (layers[0] - layers[1]) / (4 * part["input_ids"].numel()) == pytest.approx(told, rel=0.02)


def freed_at(shape: ModelShape, width: int) -> int:
    return sum(one for one in freed_widths(shape, PLAIN) if one == width)


def test_of_equal_blocks_all_that_is_freed_stays_as_holes() -> None:
    batch_shape = BatchShape(1000, 0, 1, is_tree=True)  # blocks of 32 find room in those of 64
    assert hole_bytes(SQUARE, PLAIN, batch_shape, dtype_bytes=4) == 2 * 1000 * 4 * freed_at(SQUARE, 64)


def test_narrower_blocks_fill_the_holes_of_wider_ones() -> None:
    batch_shape, wide = BatchShape(1000, 0, 1, is_tree=True), replace(SQUARE, intermediate=256)
    assert freed_at(wide, 256) == 256
    assert hole_bytes(wide, PLAIN, batch_shape, dtype_bytes=4) == 2 * 1000 * 4 * freed_at(wide, 64)


def test_large_blocks_leave_no_holes() -> None:
    assert hole_bytes(SQUARE, PLAIN, BatchShape((32 << 20) // 128, 0, 1, is_tree=True), dtype_bytes=4) == 0


HELD_AFTER_FREEING = """
import ctypes, sys, psutil
from toolkit.planning.heap import return_freed_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))  # glibc takes it for a sign that blocks up to this size come and go
if sys.argv[1] == "returned":
    return_freed_blocks()
before, blocks = psutil.Process().memory_info().rss, []
for _ in range(40):
    blocks.append(libc.malloc(4 << 20))
    ctypes.memset(ctypes.c_void_p(blocks[-1]), 1, 4 << 20)
    libc.malloc(2000)  # stays, so that the heap cannot shrink
for block in blocks:
    libc.free(block)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's heap")
def test_freed_blocks_are_given_back_where_that_is_asked_for() -> None:
    held = []
    for how in ("kept", "returned"):
        command = [sys.executable, "-c", HELD_AFTER_FREEING, how]
        held.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert held[0] > 100 << 20 and held[1] < 20 << 20


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_only_checkpointing_on_a_cpu_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, device: str, checkpointing: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(training_backends, "DEVICE", device)
    monkeypatch.setattr(training_backends, "return_freed_blocks", lambda: asked.append("freed blocks"))
    monkeypatch.setattr(training_backends, "load_base", lambda *_, **__: asked.append("model"))
    monkeypatch.setattr(training_backends, "attach_lora", lambda *_, **__: None)
    preflight, recipe = SimpleNamespace(folder=None, precision=None), SimpleNamespace(lora=None, seed=0)
    plan = SimpleNamespace(gradient_checkpointing=checkpointing)
    job: Any = SimpleNamespace(preflight=preflight, recipe=recipe, plan=plan)
    training_backends.TRAINING_BACKENDS["decoder"].load(job)
    assert asked == ["freed blocks"] * (checkpointing and device == "cpu") + ["model"]
