"""Predicted memory: what autograd keeps is counted, and sizes, ranks, batches and precisions move it as they must."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.batching.collators import PaddedCollator, TreeCollator, training_row
from toolkit.models.attention import accept_trees
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import attach_lora
from toolkit.planning.memory import activation_bytes_per_token, kept_bytes, logit_bytes, training_memory
from toolkit.planning.shapes import BatchShape, ModelShape
from toolkit.prompts.encoder import EncodedRow
from toolkit.recipe.schema import Lora
from toolkit.training.objective import summed_loss

ROWS = [training_row(EncodedRow((*range(1, 40 + i % 3), 7), (9, 2))) for i in range(6)]
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA_1B = ModelShape(layers=16, hidden=2048, attention=2048, keys=512, intermediate=8192, heads=32, vocabulary=128_256)


class _Saved:
    """A tensor as long as the graph holds it: DoRA's products of weights are saved, and their graph is dropped."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def kept_by_autograd(model: Any, part: dict[str, torch.Tensor]) -> int:
    """Bytes of all blocks that the forward pass saves and that its graph still holds at the end, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor)
        held.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = summed_loss(model, model.get_base_model().get_output_embeddings(), part)
    assert loss.requires_grad
    blocks = [saved.tensor.untyped_storage() for saved in held]
    return sum({block.data_ptr(): block.nbytes() for block in blocks if block.data_ptr() not in own}.values())


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("is_tree", [False, True], ids=["padded", "tree"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", [ALL[:4], ALL, ("q_proj", "down_proj")], ids=["attention", "all", "two"])
def test_what_autograd_keeps_is_what_is_predicted(
    tiny_model: Path, is_tree: bool, dropout: float, targets: tuple[Any, ...], use_dora: bool
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    shape = ModelShape.from_config(base.config)
    lora = Lora(r=4, alpha=8, dropout=dropout, target_modules=targets, use_dora=use_dora)
    model = attach_lora(base, lora, seed=0, gradient_checkpointing=False).train()
    accept_trees(model, is_tree)
    (part,) = (TreeCollator(999, "completion") if is_tree else PaddedCollator(6, "completion"))(ROWS)["parts"]
    rows, length = part["input_ids"].shape
    counted = BatchShape(rows * length, rows * length**2, len(part["nodes"]), is_tree)
    # Of what logits are counted with, two gradients come later.
    expected = (
        kept_bytes(shape, lora, counted, dtype_bytes=4, checkpointing=False) + logit_bytes(shape, counted, 4) // 3
    )
    # The first layer reads embeddings, which nothing is trained below: its norm and dropout keep less.
    less = shape.hidden * 4 * counted.tokens * (1 + (len({*targets} & {*ALL[:3]}) if dropout else 0))
    assert kept_by_autograd(model, part) == pytest.approx(expected - less, rel=0.03)


def memory(part: BatchShape, **changes: Any) -> Any:
    lora = Lora(r=changes.pop("r", 16), dropout=0)
    settings: dict[str, Any] = {
        "runtime": 0, "weights": 0, "trainable": 1000, "dtype_bytes": 4,
        "checkpointing": False, "optimizer": "adamw_torch",
    }  # fmt: skip
    return training_memory(LLAMA_1B, lora, part, **settings | changes)


def test_each_term_follows_its_cause() -> None:
    part = BatchShape(tokens=1000, mask=1000 * 100, predictions=30, is_tree=False)
    plain = memory(part)
    assert plain.adapter == 16_000 and memory(part, optimizer="adamw_8bit").adapter == 10_000
    assert memory(replace(part, predictions=60)).logits == 2 * plain.logits == 2 * 30 * 128_256 * 12
    assert memory(part, r=32).activations > plain.activations
    assert memory(part, checkpointing=True).activations < plain.activations / 8
    assert memory(part, dtype_bytes=2).activations < plain.activations * 0.7
    assert memory(replace(part, is_tree=True)).activations < plain.activations, "a tree's mask is one for all layers"
    assert plain.holes == 0 and memory(part, on_cpu=True).holes > 0
    assert memory(part, on_cpu=True, checkpointing=True).holes == 0, "freed blocks are returned"
    assert plain.total == plain.peak < memory(part, loading=10**12).peak


def test_dora_needs_room_for_its_largest_target_in_float32() -> None:
    small = BatchShape(tokens=10, mask=0, predictions=1, is_tree=True)
    settings: dict[str, Any] = {
        "runtime": 0, "weights": 0, "trainable": 0, "checkpointing": False, "optimizer": "adamw_torch",
    }  # fmt: skip
    lora, dora = Lora(dropout=0), Lora(dropout=0, use_dora=True, target_modules=("k_proj", "q_proj"))
    plain, working = (training_memory(LLAMA_1B, one, small, dtype_bytes=4, **settings).working for one in (lora, dora))
    assert plain < working == 4 * (2048 * 2048 + 3 * 2048 * 2048)
    assert training_memory(LLAMA_1B, dora, small, dtype_bytes=2, **settings).working == (4 * 2 + 2 * 3) * 2048 * 2048


def test_a_token_costs_its_share_of_a_part() -> None:
    lora, part = Lora(), BatchShape(1000, 0, 250, is_tree=True)
    whole = training_memory(
        LLAMA_1B,
        lora,
        part,
        runtime=0,
        weights=0,
        trainable=0,
        dtype_bytes=4,
        checkpointing=False,
        optimizer="adamw_torch",
    ).total
    share = activation_bytes_per_token(LLAMA_1B, lora, dtype_bytes=4, checkpointing=False, trained_share=0.25)
    assert share * 1000 == pytest.approx(whole, rel=1e-6)
