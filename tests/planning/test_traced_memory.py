"""Traced memory: equal to what torch allocates for real models of each architecture, in training and scoring."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.planning.batches import collate_rows
from toolkit.batching.collators import MicroBatch
from toolkit.errors import ModelError
from toolkit.models.backend import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    LoraConfig,
    get_peft_model,
)
from toolkit.models.tree_attention import accept_trees
from toolkit.models.tree_layout import model_inputs
from toolkit.planning import traced_memory
from toolkit.planning.memory import kept_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, freed_blocks
from toolkit.planning.traced_memory import TracedModel, traced_bytes_per_token
from toolkit.recipe.schema import LoraSection

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vocab_size": 99}
DECODER = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "camembert": SIZES,
    "xlm-roberta": SIZES,
    "electra": {**SIZES, "embedding_size": 32},
    "distilbert": {"dim": 64, "hidden_dim": 160, "n_heads": 4, "vocab_size": 99},
    "deberta-v2": {**SIZES, "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"],
                   "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "modernbert": {**SIZES, "pad_token_id": 0},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mistral": {**DECODER, "sliding_window": 16},
    "qwen2": DECODER,
    "qwen3": {**DECODER, "head_dim": 32},
    "smollm3": DECODER,
    "gemma3_text": {**DECODER, "head_dim": 32, "num_key_value_heads": 1, "sliding_window": 16},
}
TARGETS: dict[str, tuple[Any, ...]] = {
    "distilbert": ("q_lin", "v_lin"), "deberta-v2": ("query_proj", "value_proj"), "modernbert": ("Wqkv",),
}  # fmt: skip
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS, LENGTH, LAYERS = 4, 64, 4
BATCHINGS = ("padded", "split", "dense")


def traced_model(name: str, lora: bool = True, dtype_bytes: int = 4, on_cpu: bool = True) -> TracedModel:
    kind = "encoder" if name in ENCODERS else "decoder"
    config = AutoConfig.for_model(name, **{**ENCODERS, **DECODERS}[name])
    config.num_hidden_layers = LAYERS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:LAYERS]
    config.num_labels = 3
    targets = ALL_LINEAR if kind == "decoder" else TARGETS.get(name, ("query", "value"))
    section = LoraSection.model_construct(
        r=4, alpha=8, dropout=0.1, target_modules=targets, use_rslora=False, use_dora=False
    )
    recipe: Any = SimpleNamespace(
        lora=section if lora else None,
        decoder_lora=section,
        model=SimpleNamespace(kind=kind, name=name),
        task=SimpleNamespace(labels=("a", "b", "c")),
    )
    return TracedModel(config, recipe, dtype_bytes, on_cpu)


def real_model(traced: TracedModel) -> Any:
    """Return the module that is called, with a new adapter."""
    lora = traced.recipe.lora
    auto_class = AutoModelForSequenceClassification if traced.is_encoder else AutoModelForCausalLM
    model = auto_class.from_config(traced.config, dtype=torch.float32)
    if lora is not None:
        task_type = "SEQ_CLS" if traced.is_encoder else "CAUSAL_LM"
        adapter = LoraConfig(r=4, lora_dropout=0.1, target_modules=list(lora.target_modules), task_type=task_type)
        get_peft_model(model, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    if traced.is_encoder:
        return model.train()
    accept_trees(model)
    return model.train().get_decoder()


def measure(traced: TracedModel, micro_batch: MicroBatch, prefix: int, *, is_training: bool) -> tuple[int, int]:
    """Return the bytes that torch holds after the forward pass, and at the peak of the step."""
    body = real_model(traced).train(is_training)
    inputs = model_inputs(micro_batch, traced.config, torch.float32, prefix)
    if not traced.is_encoder:
        inputs["use_cache"] = False
    peaks, results = [], []
    for has_backward in (False, is_training):
        with torch.set_grad_enabled(is_training):
            for is_first in (True, False):  # the first call creates caches, such as those of rotary embeddings
                if prefix:
                    inputs["past_key_values"] = DynamicCache()
                    body(input_ids=torch.ones(1, prefix, dtype=torch.long), past_key_values=inputs["past_key_values"])
                if is_first:
                    body(**inputs)
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                result = body(**inputs)[0]
                if has_backward:
                    result.backward(torch.ones_like(result))
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0  # the profiler leaves out blocks that exist already, even when they are freed
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        peaks.append(peak)
        results.append(held)
    return results[0], peaks[1]


def check_trace(traced: TracedModel, micro_batch: MicroBatch, prefix: int = 0) -> None:
    batch_shape = BatchShape.from_micro_batch(micro_batch, 1, prefix)
    for is_training in (False,) if prefix else (True, False):
        trace = traced.trace(batch_shape, is_training=is_training)
        kept, peak = measure(traced, micro_batch, prefix, is_training=is_training)
        predicted = trace.kept_bytes(LAYERS, checkpointing=False)
        assert predicted == pytest.approx(kept, rel=0.035)
        # Kernels use some hundred kilobytes of their own.
        assert predicted + trace.working == pytest.approx(peak, rel=0.04, abs=300_000)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_trace_matches_torch(name: str, batching: Any) -> None:
    check_trace(traced_model(name), collate_rows(batching))


@pytest.mark.parametrize("name", DECODERS)
def test_trace_includes_cached_keys(name: str) -> None:
    check_trace(traced_model(name), collate_rows("split"), prefix=64)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_trace_matches_torch(name: str, lora: bool) -> None:
    batch = BatchShape(ROWS, LENGTH, ROWS).zeros()
    batch["attention_mask"][0, -1] = 0  # without padding, some models do without a mask
    check_trace(traced_model(name, lora), batch)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trace_agrees_with_the_llama_formula(batching: Any, checkpointing: bool) -> None:
    traced = traced_model("llama")
    batch_shape = BatchShape.from_micro_batch(collate_rows(batching), 1)
    shape, lora = ModelShape.from_config(traced.config), traced.recipe.decoder_lora
    formula = kept_bytes(shape, lora, batch_shape, dtype_bytes=4, checkpointing=checkpointing)
    trace = traced.trace(batch_shape, is_training=True)
    predicted = trace.kept_bytes(LAYERS, checkpointing=checkpointing) + traced.mask_bytes(batch_shape)
    assert predicted == pytest.approx(formula, rel=0.05)
    assert sum(trace.layer_freed) == pytest.approx(4 * sum(freed_blocks(shape, lora, batch_shape)), rel=0.05)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_sizes_describe_collated_tensors(batching: Any) -> None:
    micro_batch = collate_rows(batching)
    batch_shape = BatchShape.from_micro_batch(micro_batch, 1)
    zeros = batch_shape.zeros()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in zeros.items()} == {
        name: (micro_batch[name].shape, micro_batch[name].dtype) for name in zeros
    }
    assert {*micro_batch} - {*zeros} == {"nodes", "targets", "weights"}
    if batch_shape.is_tree:
        assert zeros["position_ids"].max() == micro_batch["position_ids"].max()


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("prefix", [0, 8])
def test_mask_sizes_match_the_formula(batching: Any, prefix: int) -> None:
    traced = traced_model("llama")
    batch_shape = BatchShape.from_micro_batch(collate_rows(batching), 1, prefix)
    elements = batch_shape.mask_elements(ModelShape.from_config(traced.config))
    assert traced.mask_bytes(batch_shape) == (4 * elements if batch_shape.is_tree else 0)


def test_rows_beyond_the_window_need_two_masks() -> None:
    traced = traced_model("gemma3_text")
    traced.config.layer_types = ["sliding_attention", "full_attention"]
    sizes = []
    for depth in (16, 17):
        sizes.append(traced.mask_bytes(BatchShape(1, 100, 1, is_tree=True, depth=depth)))
    assert sizes == [100 * 100 * 4, 2 * 100 * 100 * 4]


def test_gpu_keeps_no_attention_weights() -> None:
    batch_shape = BatchShape(ROWS, LENGTH, ROWS)
    on_cpu, on_gpu = (
        traced_model("bert", on_cpu=on_cpu).trace(batch_shape, is_training=True) for on_cpu in (True, False)
    )
    weights = ROWS * 4 * LENGTH**2 * 4  # rows, heads, pairs of tokens, bytes
    assert sum(on_cpu.layer_kept) - sum(on_gpu.layer_kept) > weights


def test_half_precision_needs_less() -> None:
    batch_shape = BatchShape(ROWS, LENGTH, ROWS)
    for name in ("bert", "gemma3_text"):
        full, half = (traced_model(name, dtype_bytes=size).trace(batch_shape, is_training=True) for size in (4, 2))
        assert sum(half.layer_kept) < 0.9 * sum(full.layer_kept)


def test_bytes_per_token_include_logits() -> None:
    traced = traced_model("qwen3")
    shares = [traced_bytes_per_token(traced, LENGTH, checkpointing=False, target_share=share) for share in (0.0, 1.0)]
    assert shares[1] - shares[0] == 99 * 3 * 4  # vocabulary, tensors, bytes


def test_replaced_code_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth replaces forward methods on a GPU. The trace uses those of transformers."""
    traced, batch_shape = traced_model("qwen3"), BatchShape(1, 32, 1, is_tree=True)
    expected = traced.trace(batch_shape, is_training=True)
    model = AutoModelForCausalLM.from_config(traced.config)
    for module in (model, model.model, model.model.layers[0], model.model.layers[0].self_attn):
        monkeypatch.setattr(type(module), "forward", None)
    TracedModel.trace.cache_clear()
    assert traced.trace(batch_shape, is_training=True) == expected


def test_untraceable_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("shape depends on data\nand more")

    monkeypatch.setattr(traced_memory, "trace_call", fail)
    TracedModel.trace.cache_clear()
    with pytest.raises(ModelError, match=r"The memory of bert cannot be predicted: shape depends on data\.$") as error:
        traced_model("bert").trace(BatchShape(4, 8, 4), is_training=True)
    assert "probe=True" in str(error.value.hint)
