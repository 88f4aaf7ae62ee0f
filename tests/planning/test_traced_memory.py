"""Traced memory: equal to what torch allocates for real models of each architecture, in training and scoring."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from toolkit.errors import ModelError
from toolkit.models.backend import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LoraConfig,
    get_peft_model,
)
from toolkit.planning import traced_memory
from toolkit.planning.memory import kept_bytes
from toolkit.planning.shapes import BatchShape, ModelShape, freed_widths
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
    return model.train() if traced.is_encoder else model.train().get_decoder()


def measure(traced: TracedModel, batch_shape: BatchShape, *, is_training: bool) -> tuple[int, int]:
    """Return the bytes that torch holds after the forward pass, and at the peak of the step."""
    rows, length = batch_shape.tokens // batch_shape.length, batch_shape.length
    ids, mask = torch.ones(rows, length, dtype=torch.long), torch.ones(rows, length, dtype=torch.long)
    mask[0, -1] = 0  # without padding, some models do without a mask
    body = real_model(traced).train(is_training)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if batch_shape.is_tree:
        inputs["attention_mask"] = torch.zeros(1, 1, length, length)
    peaks, results = [], []
    for has_backward in (False, is_training):
        with torch.set_grad_enabled(is_training):
            body(**inputs)  # creates caches, such as those of rotary embeddings
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                result = body(**inputs)[0]
                if has_backward:
                    result.backward(torch.ones_like(result))
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        peaks.append(peak)
        results.append(held)
    return results[0], peaks[1]


def check_trace(traced: TracedModel, batch_shape: BatchShape) -> None:
    for is_training in (True, False):
        trace = traced.trace(batch_shape, is_training=is_training)
        kept, peak = measure(traced, batch_shape, is_training=is_training)
        predicted = trace.kept_bytes(LAYERS, checkpointing=False) if is_training else trace.kept
        assert predicted == pytest.approx(kept, rel=0.035)
        # Kernels use some hundred kilobytes of their own.
        assert predicted + trace.working == pytest.approx(peak, rel=0.03, abs=300_000)


@pytest.mark.parametrize("is_tree", [False, True], ids=["padded", "tree"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_trace_matches_torch(name: str, is_tree: bool) -> None:
    tokens = ROWS * LENGTH
    check_trace(traced_model(name), BatchShape(tokens, tokens**2 if is_tree else tokens * LENGTH, 1, is_tree=is_tree))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_trace_matches_torch(name: str, lora: bool) -> None:
    check_trace(traced_model(name, lora), BatchShape(ROWS * LENGTH, ROWS * LENGTH**2, ROWS, is_tree=False))


@pytest.mark.parametrize("is_tree", [False, True], ids=["padded", "tree"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trace_agrees_with_the_llama_formula(is_tree: bool, checkpointing: bool) -> None:
    traced, tokens = traced_model("llama"), ROWS * LENGTH
    batch_shape = BatchShape(tokens, tokens**2 if is_tree else tokens * LENGTH, 1, is_tree=is_tree)
    shape = ModelShape.from_config(traced.config)
    formula = kept_bytes(shape, traced.recipe.lora, batch_shape, dtype_bytes=4, checkpointing=checkpointing)
    trace = traced.trace(batch_shape, is_training=True)
    predicted = trace.kept_bytes(LAYERS, checkpointing=checkpointing) + traced.mask_bytes(batch_shape, LENGTH)
    assert predicted == pytest.approx(formula, rel=0.05)
    freed = freed_widths(shape, traced.recipe.lora)
    assert sum(trace.layer_freed) == pytest.approx(4 * tokens * sum(freed), rel=0.05)


def test_rows_beyond_the_window_need_two_masks() -> None:
    tree = BatchShape(100, 100 * 100, 1, is_tree=True)
    traced = traced_model("gemma3_text")
    traced.config.layer_types = ["sliding_attention", "full_attention"]
    assert traced.mask_bytes(tree, longest=16) == 100 * 100 * 4
    assert traced.mask_bytes(tree, longest=17) == 2 * 100 * 100 * 4
    assert traced.mask_bytes(replace(tree, is_tree=False), longest=17) == 0, "padded rows have no mask of their own"


def test_gpu_keeps_no_attention_weights() -> None:
    batch_shape = BatchShape(ROWS * LENGTH, ROWS * LENGTH**2, ROWS, is_tree=False)
    on_cpu, on_gpu = (
        traced_model("bert", on_cpu=on_cpu).trace(batch_shape, is_training=True) for on_cpu in (True, False)
    )
    weights = ROWS * 4 * LENGTH**2 * 4  # rows, heads, pairs of tokens, bytes
    assert sum(on_cpu.layer_kept) - sum(on_gpu.layer_kept) > weights


def test_half_precision_needs_less() -> None:
    batch_shape = BatchShape(ROWS * LENGTH, ROWS * LENGTH**2, ROWS, is_tree=False)
    for name in ("bert", "gemma3_text"):
        full, half = (traced_model(name, dtype_bytes=size).trace(batch_shape, is_training=True) for size in (4, 2))
        assert sum(half.layer_kept) < 0.9 * sum(full.layer_kept)


def test_bytes_per_token_include_logits() -> None:
    traced = traced_model("qwen3")
    shares = [traced_bytes_per_token(traced, LENGTH, checkpointing=False, target_share=share) for share in (0.0, 1.0)]
    assert shares[1] - shares[0] == 99 * 3 * 4  # vocabulary, tensors, bytes


def test_replaced_code_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth replaces forward methods on a GPU. The trace uses those of transformers."""
    traced, batch_shape = traced_model("qwen3"), BatchShape(32, 32 * 32, 1, is_tree=True)
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
        traced_model("bert").trace(BatchShape(32, 32 * 8, 4, is_tree=False), is_training=True)
    assert "probe=True" in str(error.value.hint)
