"""Predicted working memory of scoring and of the backward pass, compared with what torch allocates."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from tests.planning.batches import collate_rows
from toolkit.models.backend import AutoModelForCausalLM, DynamicCache
from toolkit.models.tree_attention import accept_trees
from toolkit.models.tree_layout import model_inputs
from toolkit.planning.memory import scoring_memory, working_bytes
from toolkit.planning.shapes import BatchShape, ModelShape
from toolkit.recipe.schema import LoraSection

HAS_AMX = "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def measure_peak(compute: Callable[[], Any]) -> int:
    """Return the peak of the bytes that torch allocates during the call and has not freed again."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    events = [event for event in flatten(profiler.profiler.kineto_results.experimental_event_tree()) if is_block(event)]
    blocks: dict[int, int] = {}
    peak = 0
    for event in sorted(events, key=lambda event: event.start_time_ns):
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            blocks[address] = size
            peak = max(peak, sum(blocks.values()))
        else:  # of a block from before the call, the profiler can have the size of another one at the same address
            blocks.pop(address, None)
    return peak


def flatten(events: list[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from flatten(event.children)


def is_block(event: Any) -> bool:
    return event.tag == _EventType.Allocation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("batching", "prefix"), [("split", 0), ("split", 200), ("dense", 0)])
def test_scoring_peak_is_predicted(tiny_model: Path, dtype: torch.dtype, batching: Any, prefix: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).eval()
    accept_trees(model)
    shape, predictions, micro_batch = ModelShape.from_config(model.config), 100, collate_rows(batching)
    batch_shape = BatchShape.from_micro_batch(micro_batch, predictions, prefix)
    sizes = {"runtime": 1, "weights": 2, "dtype_bytes": dtype.itemsize, "loading": 3}
    predicted = scoring_memory(shape, LoraSection(), batch_shape, on_cpu=True, **sizes)
    on_gpu = scoring_memory(shape, LoraSection(), batch_shape, **sizes)
    widths = (
        2 * shape.attention * (prefix + batch_shape.length)
        if batching == "dense"
        else 2 * shape.keys * batch_shape.group_keys
    )
    packed = 0 if dtype is torch.float32 else widths * dtype.itemsize
    assert predicted.working - on_gpu.working == packed, "only CPUs pack keys and values"
    hidden = torch.zeros(predictions, shape.hidden, dtype=dtype)
    with torch.inference_mode():
        cache = DynamicCache()
        if prefix:
            model.get_decoder()(input_ids=torch.ones(1, prefix, dtype=torch.long), past_key_values=cache)
        inputs = {"past_key_values": cache} if prefix else {}

        def score() -> None:
            tree = model_inputs(micro_batch, model.config, dtype, prefix)
            model.get_decoder()(**tree, **inputs, use_cache=False)

        body = measure_peak(score)
        head = measure_peak(lambda: model.get_output_embeddings()(hidden).float().log_softmax(dim=-1))
    assert (predicted.runtime, predicted.weights, predicted.loading) == (1, 2, 3)
    assert (predicted.adapter, predicted.holes) == (0, 0)
    # Each thread of the attention kernel has its own buffer. Dense attention gives 1.34 with one thread, less with two.
    # A CPU without AMX makes no packed copies, so it needs less than predicted.
    needed = predicted.working + predicted.activations
    assert needed / body > 0.9
    assert (needed if HAS_AMX else needed - packed) / body < 1.4
    assert 1 <= predicted.logits / head < 1.3


def test_backward_peak_of_a_layer_is_predicted(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).requires_grad_(False)
    shape, tokens = ModelShape.from_config(model.config), 256
    hidden = torch.randn(1, tokens, shape.hidden, requires_grad=True)
    position_embeddings = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
    result = model.model.layers[0](hidden, position_embeddings=position_embeddings)
    result = result[0] if isinstance(result, tuple) else result
    gradient = torch.ones_like(result)
    peak = measure_peak(lambda: result.backward(gradient))
    assert 1 <= working_bytes(shape, BatchShape(1, tokens, 1), 4) / peak < 1.3
