"""Memory in addition to live tensors: holes in the heap, and cached kernels."""

import os
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
from tests.planning.batches import collate_rows
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import attach_lora
from toolkit.planning.heap import hole_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, freed_blocks, kept_blocks
from toolkit.recipe.schema import LoraSection
from toolkit.training import training_backends
from toolkit.training.objective import summed_loss

ALL_TARGETS: tuple[Any, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SQUARE = ModelShape(layers=2, hidden=64, attention=64, keys=64, intermediate=64, heads=4, vocabulary=100)
PLAIN = LoraSection(dropout=0)


class _AllocationCounter(TorchDispatchMode):
    """Counts the bytes of every new block, including freed ones."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.seen, self.bytes = tokens, {}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        inputs = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
        for tensor in result if isinstance(result, tuple) else (result,):
            # A view shares the storage of its input.
            is_new = isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in inputs
            # Leaves out the weight-sized tensors of DoRA, whose sizes are not a multiple of the number of tokens.
            if is_new and tensor.numel() >= 16 * self.tokens and tensor.numel() % self.tokens == 0:
                self.bytes += tensor.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "targets", [ALL_TARGETS[:4], ALL_TARGETS, ("q_proj", "down_proj")], ids=["attention", "all", "two"]
)
def test_layer_allocates_kept_and_freed_blocks(
    tiny_model: Path, dropout: float, targets: tuple[Any, ...], use_dora: bool
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    lora = LoraSection(r=4, alpha=8, dropout=dropout, target_modules=targets, use_dora=use_dora)
    model = attach_lora(base, lora, seed=0, gradient_checkpointing=False).train()
    shape = ModelShape.from_config(base.config)
    micro_batch = collate_rows("padded")
    batch_shape = BatchShape.from_micro_batch(micro_batch, 1)
    allocated = []
    for count in (shape.layers, shape.layers - 1):  # the difference is one layer, including its mask
        model.get_base_model().model.layers = model.get_base_model().model.layers[:count]
        with _AllocationCounter(micro_batch["input_ids"].numel()) as counter:
            summed_loss(model, model.get_base_model().get_output_embeddings(), micro_batch)
        allocated.append(counter.bytes)
    predicted = batch_shape.mask_elements(shape) + sum(kept_blocks(shape, lora, batch_shape))
    predicted += sum(freed_blocks(shape, lora, batch_shape))
    assert (allocated[0] - allocated[1]) / 4 == pytest.approx(predicted, rel=0.02)


BATCH = BatchShape(1, 1000, 1)


def total_freed(shape: ModelShape, width: int) -> int:
    return sum(size for size in freed_blocks(shape, PLAIN, BATCH) if size == 1000 * width)


def test_equal_blocks_do_not_fill_holes() -> None:
    # Blocks of 32 fit into holes of 64.
    assert hole_bytes(SQUARE, PLAIN, BATCH, dtype_bytes=4) == 2 * 4 * total_freed(SQUARE, 64)


def test_smaller_blocks_fill_larger_holes() -> None:
    wide = replace(SQUARE, intermediate=256)
    assert total_freed(wide, 256) == 1000 * 256
    assert hole_bytes(wide, PLAIN, BATCH, dtype_bytes=4) == 2 * 4 * total_freed(wide, 64)


def test_large_blocks_leave_no_holes() -> None:
    assert hole_bytes(SQUARE, PLAIN, BatchShape(1, (32 << 20) // 128, 1), dtype_bytes=4) == 0


MEMORY_AFTER_FREEING = """
import ctypes, sys, psutil
from toolkit.planning.heap import return_freed_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))  # this makes glibc raise its threshold, so that blocks below 30 MiB come from the heap
if sys.argv[1] == "returned":
    return_freed_blocks()
before, blocks = psutil.Process().memory_info().rss, []
for _ in range(40):
    blocks.append(libc.malloc(4 << 20))
    ctypes.memset(ctypes.c_void_p(blocks[-1]), 1, 4 << 20)
    libc.malloc(1 << 20)  # is never freed, so that the heap cannot shrink; too large for a hole that imports left
for block in blocks:
    libc.free(block)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_blocks_are_returned() -> None:
    held_bytes = []
    for mode in ("kept", "returned"):
        command = [sys.executable, "-c", MEMORY_AFTER_FREEING, mode]
        held_bytes.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert held_bytes[0] > 100 << 20 and held_bytes[1] < 20 << 20


MEMORY_OF_KERNELS = """
import os
import toolkit
import psutil, torch
if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    os._exit(5)
layer = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
before = None
for rows in range(1, 301):
    if rows == 101:  # the first kernels also load code and fill the heap
        before = psutil.Process().memory_info().rss
    layer(torch.zeros(rows, 64, dtype=torch.bfloat16))
print(psutil.Process().memory_info().rss - before)
"""


def test_kernels_of_old_shapes_are_freed() -> None:
    held_bytes = []
    caches = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    inherited = {name: value for name, value in os.environ.items() if name not in caches}
    for environment in (inherited, inherited | dict.fromkeys(caches, "1024")):
        command = [sys.executable, "-c", MEMORY_OF_KERNELS]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        if result.returncode == 5:
            pytest.skip("torch does not use oneDNN for bfloat16 on this CPU")
        assert result.returncode == 0, result.stderr
        held_bytes.append(int(result.stdout))
    if held_bytes[1] < 50 << 20:
        pytest.skip("kernels take little memory on this CPU")  # 16 MB without bfloat16 instructions, 133 MB with them
    assert held_bytes[0] < held_bytes[1] / 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_only_checkpointing_on_cpu_returns_blocks(
    monkeypatch: pytest.MonkeyPatch, device: str, checkpointing: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(training_backends, "DEVICE", device)
    monkeypatch.setattr(training_backends, "return_freed_blocks", lambda: calls.append("freed blocks"))
    monkeypatch.setattr(training_backends, "load_base", lambda *_, **__: calls.append("model"))
    monkeypatch.setattr(training_backends, "attach_lora", lambda *_, **__: None)
    preflight, recipe = SimpleNamespace(folder=None, precision=None), SimpleNamespace(decoder_lora=None, seed=0)
    plan = SimpleNamespace(gradient_checkpointing=checkpointing)
    job: Any = SimpleNamespace(preflight=preflight, recipe=recipe, plan=plan)
    training_backends.TRAINING_BACKENDS["decoder"].load(job)
    assert calls == ["freed blocks"] * (checkpointing and device == "cpu") + ["model"]
