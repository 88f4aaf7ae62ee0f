"""The working memory that is predicted for scoring and for the backward pass, beside what torch asks for and frees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from toolkit.models.attention import accept_trees, model_mask
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.planning.memory import scoring_memory, working_bytes
from toolkit.planning.shapes import BatchShape, ModelShape
from toolkit.recipe.schema import Lora


def most_held(compute: Callable[[], Any]) -> int:
    """The most bytes that stand at once, of the blocks that torch asks for while it computes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_scoring_pass_holds_what_is_predicted(tiny_model: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).eval()
    accept_trees(model)
    shape, nodes, predictions = ModelShape.from_config(model.config), 512, 100
    part = BatchShape(nodes, nodes**2, predictions, is_tree=True)
    sizes = {"runtime": 1, "weights": 2, "dtype_bytes": dtype.itemsize, "loading": 3}
    told = scoring_memory(shape, Lora(), part, on_cpu=True, **sizes)
    on_gpu = scoring_memory(shape, Lora(), part, **sizes)
    packed = 0 if dtype is torch.float32 else 2 * shape.attention * nodes * dtype.itemsize
    assert told.working - on_gpu.working == packed, "with or without AMX, what follows holds"
    sees = torch.ones(1, 1, nodes, nodes, dtype=torch.bool).tril()
    inputs = {"input_ids": torch.arange(nodes)[None] % 99, "position_ids": torch.arange(nodes)[None]}
    hidden = torch.zeros(predictions, shape.hidden, dtype=dtype)
    with torch.inference_mode():
        body = most_held(lambda: model.get_decoder()(**inputs, attention_mask=model_mask(sees, dtype), use_cache=False))
        head = most_held(lambda: model.get_output_embeddings()(hidden).float().log_softmax(dim=-1))
    assert (told.runtime, told.weights, told.adapter, told.holes, told.loading) == (1, 2, 0, 0, 3)
    assert 0.95 < (told.working + told.activations) / body < 1.3  # in half precision norms keep a float32 copy
    assert 1 <= told.logits / head < 1.3


def test_the_backward_pass_of_a_layer_holds_what_is_predicted(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).requires_grad_(False)
    shape, tokens = ModelShape.from_config(model.config), 256
    hidden = torch.randn(1, tokens, shape.hidden, requires_grad=True)
    turned = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
    result = model.model.layers[0](hidden, position_embeddings=turned)
    result = result[0] if isinstance(result, tuple) else result
    gradient = torch.ones_like(result)
    most = most_held(lambda: result.backward(gradient))
    assert 1 <= working_bytes(shape, BatchShape(tokens, 0, 1, is_tree=True), 4) / most < 1.3
