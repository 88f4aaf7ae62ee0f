"""The memory formula: it counts what autograd keeps and reacts to sizes, ranks, batches and precisions."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.planning.batches import collate_rows
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import attach_lora
from toolkit.models.tree_attention import accept_trees
from toolkit.planning.memory import activation_bytes_per_token, kept_bytes, logit_bytes, training_memory
from toolkit.planning.shapes import BatchShape, ModelShape, SplitShape
from toolkit.recipe.schema import LoraSection
from toolkit.training.objective import summed_loss

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA_1B = ModelShape(layers=16, hidden=2048, attention=2048, keys=512, intermediate=8192, heads=32, vocabulary=128_256)


class _SavedTensor:
    """A tensor that lives as long as the graph holds it. DoRA saves products of weights in a graph that it drops."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def count_kept_bytes(model: Any, micro_batch: dict[str, torch.Tensor]) -> int:
    """Return the bytes that the forward pass saves and its graph still holds at the end, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: weakref.WeakSet[_SavedTensor] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> _SavedTensor:
        saved = _SavedTensor(tensor)
        held.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = summed_loss(model, model.get_base_model().get_output_embeddings(), micro_batch)
    assert loss.requires_grad
    blocks = [saved.tensor.untyped_storage() for saved in held]
    return sum({block.data_ptr(): block.nbytes() for block in blocks if block.data_ptr() not in parameters}.values())


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize(
    ("batching", "loss_on"),
    [("padded", "completion"), ("split", "completion"), ("split", "full_text"), ("dense", "completion")],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "targets", [ALL_TARGETS[:4], ALL_TARGETS, ("q_proj", "down_proj")], ids=["attention", "all", "two"]
)
def test_prediction_matches_what_autograd_keeps(
    tiny_model: Path, batching: Any, loss_on: Any, dropout: float, targets: tuple[Any, ...], use_dora: bool
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    shape = ModelShape.from_config(base.config)
    lora = LoraSection(r=4, alpha=8, dropout=dropout, target_modules=targets, use_dora=use_dora)
    model = attach_lora(base, lora, seed=0, gradient_checkpointing=False).train()
    accept_trees(model)
    micro_batch = collate_rows(batching, loss_on)
    batch_shape = BatchShape.from_micro_batch(micro_batch, len(micro_batch["nodes"]))
    # Two of the three terms of logits are gradients, which do not exist yet after the forward pass.
    expected = (
        kept_bytes(shape, lora, batch_shape, dtype_bytes=4, checkpointing=False)
        + logit_bytes(shape.vocabulary, batch_shape.predictions, 4) // 3
    )
    # The input of the first layer needs no gradient, so its norm and dropout keep less.
    less = shape.hidden * 4 * batch_shape.tokens * (1 + (len({*targets} & {*ALL_TARGETS[:3]}) if dropout else 0))
    assert count_kept_bytes(model, micro_batch) == pytest.approx(expected - less, rel=0.03)


def memory(batch_shape: BatchShape, **changes: Any) -> Any:
    lora = LoraSection(r=changes.pop("r", 16), dropout=0)
    settings: dict[str, Any] = {
        "runtime": 0, "weights": 0, "trainable": 1000, "dtype_bytes": 4,
        "checkpointing": False, "optimizer": "adamw_torch",
    }  # fmt: skip
    return training_memory(LLAMA_1B, lora, batch_shape, **settings | changes)


def test_each_term_follows_its_setting() -> None:
    batch_shape = BatchShape(rows=10, length=100, predictions=30)
    plain = memory(batch_shape)
    assert plain.adapter == 16_000 and memory(batch_shape, optimizer="adamw_8bit").adapter == 10_000
    assert memory(replace(batch_shape, predictions=60)).logits == 2 * plain.logits == 2 * 30 * 128_256 * 12
    assert memory(batch_shape, r=32).activations > plain.activations
    assert memory(batch_shape, checkpointing=True).activations < plain.activations / 8
    assert memory(batch_shape, dtype_bytes=2).activations < plain.activations * 0.7
    tree = BatchShape(rows=1, length=1000, predictions=30, is_tree=True)
    split = replace(tree, split=SplitShape(path=100, groups=9, width=100))
    partial = replace(tree, split=SplitShape(path=100, groups=9, width=100, queries=30))
    assert memory(partial).activations < memory(split).activations
    masks = [(shape.mask_elements(LLAMA_1B), shape.prefix) for shape in (tree, split, replace(split, prefix=50))]
    assert masks == [(1000 * 1000, 0), (4 * 900 * 200, 0), (4 * (900 * 250 + 100 * 150), 50)]
    assert memory(tree).activations - memory(batch_shape).activations == (
        4 * (1000 * 1000 - 16 * 1000 * 100) + 4 * 2 * 64 * 900
    ), "all layers share the mask of a tree, and rows share the rotary embedding"
    assert plain.holes == 0 and memory(batch_shape, on_cpu=True).holes > 0
    assert memory(batch_shape, on_cpu=True, checkpointing=True).holes == 0, "freed blocks are returned"
    assert plain.total == plain.peak < memory(batch_shape, loading=10**12).peak


def test_dora_counts_its_largest_target() -> None:
    small = BatchShape(rows=1, length=10, predictions=1, is_tree=True)
    settings: dict[str, Any] = {
        "runtime": 0, "weights": 0, "trainable": 0, "checkpointing": False, "optimizer": "adamw_torch",
    }  # fmt: skip
    lora, dora = LoraSection(dropout=0), LoraSection(dropout=0, use_dora=True, target_modules=("k_proj", "q_proj"))
    plain, working = (
        training_memory(LLAMA_1B, section, small, dtype_bytes=4, **settings).working for section in (lora, dora)
    )
    assert plain < working == 4 * (2048 * 2048 + 3 * 2048 * 2048)
    assert training_memory(LLAMA_1B, dora, small, dtype_bytes=2, **settings).working == (4 * 2 + 2 * 3) * 2048 * 2048


def test_bytes_per_token_add_up() -> None:
    lora, batch_shape = LoraSection(), BatchShape(1, 1000, 250, is_tree=True)
    total = training_memory(
        LLAMA_1B,
        lora,
        batch_shape,
        runtime=0,
        weights=0,
        trainable=0,
        dtype_bytes=4,
        checkpointing=False,
        optimizer="adamw_torch",
    ).total
    per_token = activation_bytes_per_token(LLAMA_1B, lora, dtype_bytes=4, checkpointing=False, target_share=0.25)
    assert per_token * 1000 == pytest.approx(total - 4 * batch_shape.mask_elements(LLAMA_1B), rel=1e-6)
