"""Tests of the training loss: a prefix tree gives the gradient of padded rows, for any split into micro-batches."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator, to_training_row
from toolkit.errors import TrainingError
from toolkit.models.loading import attach_lora, load_base
from toolkit.models.precision import Precision
from toolkit.models.tree_attention import accept_trees
from toolkit.recipe.schema import LoraSection, Recipe
from toolkit.training.objective import summed_loss

FLOAT32 = Precision("float32", "test")
SYSTEM = list(range(10, 30))
ROWS: list[Row] = [
    {"prompt": [1, *SYSTEM, *premise, *hypothesis, 7, 8], "answer": answer}
    for premise in ([40, 41, 42, 43], [40, 41, 50], [60, 61, 62, 63, 64])
    for hypothesis, answer in (([70, 71], [80, 81, 99]), ([70, 72, 73], [82, 99]), ([74], [80, 83, 84, 99]))
]


def model_with_adapter(folder: Path, recipe: Recipe, *, checkpointing: bool = False) -> Any:
    """Load a model and attach an adapter without zeros, in training mode."""
    model = load_base(folder, recipe, FLOAT32, gradient_checkpointing=checkpointing)
    model = attach_lora(model, LoraSection(r=4, alpha=8, dropout=0.0), seed=1, gradient_checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # LoRA starts B at zero, which gives the A matrices no gradient
            parameter.data.normal_(0, 0.02, generator=generator)
    accept_trees(model)
    return model.train()


def loss_and_gradient(model: Any, step: dict[str, Any]) -> tuple[float, torch.Tensor]:
    head, loss = model.get_base_model().get_output_embeddings(), 0.0
    for micro_batch in step["micro_batches"]:
        loss_share = summed_loss(model, head, micro_batch) / step["predictions"].item()
        loss_share.backward()
        loss += loss_share.item()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return loss, flat


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.norm() > 0
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tree_gradient_equals_padded_gradient(
    tiny_model: Path, make_recipe: Any, loss_on: LossOn, checkpointing: bool
) -> None:
    model = model_with_adapter(tiny_model, make_recipe(), checkpointing=checkpointing)
    expected_loss, expected = loss_and_gradient(model, PaddedCollator(len(ROWS), loss_on)(ROWS))
    steps = [PaddedCollator(1, loss_on)(ROWS), PaddedCollator(2, loss_on)(ROWS)]
    steps += [TreeCollator(budget, loss_on)(ROWS) for budget in (1, 40, 60, 10_000)]
    assert [len(step["micro_batches"]) for step in steps] == [9, 5, 9, 5, 2, 1]
    for step in steps:
        loss, actual = loss_and_gradient(model, step)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative_error(actual, expected) < 1e-5


def test_gradient_equals_full_logits_cross_entropy(tiny_model: Path, make_recipe: Any) -> None:
    model = model_with_adapter(tiny_model, make_recipe())
    losses = []
    for row in ROWS:
        logits = model(input_ids=torch.tensor([[*row["prompt"], *row["answer"][:-1]]])).logits[0]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[len(row["prompt"]) - 1 :], torch.tensor(row["answer"]), reduction="sum"
            )
        )
    (torch.stack(losses).sum() / sum(len(row["answer"]) for row in ROWS)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    assert relative_error(loss_and_gradient(model, TreeCollator(10_000, "completion")(ROWS))[1], expected) < 1e-5


def test_head_sees_only_trained_positions(tiny_model: Path, make_recipe: Any) -> None:
    model = model_with_adapter(tiny_model, make_recipe())
    head, input_shapes = model.get_base_model().get_output_embeddings(), []
    original_forward = head.forward

    def record_shape(hidden: torch.Tensor) -> torch.Tensor:
        input_shapes.append(hidden.shape)
        return original_forward(hidden)

    head.forward = record_shape  # as hooks of accelerate do; it must be in place afterwards
    for collator in (PaddedCollator(9, "completion"), TreeCollator(10_000, "completion")):
        loss_and_gradient(model, collator(ROWS))
        assert head.forward is record_shape
    assert input_shapes == [(sum(len(row["answer"]) for row in ROWS), head.in_features)] * 2
    del head.forward
    loss_and_gradient(model, PaddedCollator(9, "completion")(ROWS))
    assert "forward" not in vars(head)


def test_logit_transforms_of_a_model_are_kept(
    tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes to the logits after the head, such as Gemma's soft cap or Granite's scale, are part of the loss."""
    model = model_with_adapter(tiny_model, make_recipe())
    base = model.get_base_model()
    forward, step = base.forward, TreeCollator(10_000, "completion")(ROWS)
    unscaled_loss = loss_and_gradient(model, step)[0]

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits / 1e6
        return output

    monkeypatch.setattr(base, "forward", scaled)
    assert (
        loss_and_gradient(model, step)[0] == pytest.approx(math.log(base_vocabulary(model)), rel=1e-3) != unscaled_loss
    )


def base_vocabulary(model: Any) -> int:
    return model.get_base_model().config.vocab_size


def test_empty_logits_are_refused(tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with_adapter(tiny_model, make_recipe())
    base = model.get_base_model()
    forward = base.forward

    def without_logits(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = torch.empty(0)
        return output

    monkeypatch.setattr(base, "forward", without_logits)
    with pytest.raises(TrainingError, match=r"logits of shape \[0\] for 27 predictions"):
        loss_and_gradient(model, TreeCollator(10_000, "completion")(ROWS))


def test_4_bit_tree_gradient_is_close(tiny_model: Path, make_recipe: Any) -> None:
    model = model_with_adapter(tiny_model, make_recipe("model.load_in_4bit=true"))
    expected = loss_and_gradient(model, PaddedCollator(len(ROWS), "completion")(ROWS))[1]
    # bitsandbytes computes different shapes in different precisions, so even another padding changes the gradient.
    assert relative_error(loss_and_gradient(model, PaddedCollator(2, "completion")(ROWS))[1], expected) < 1e-2
    assert relative_error(loss_and_gradient(model, TreeCollator(10_000, "completion")(ROWS))[1], expected) < 1e-2


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
def test_real_rows_on_llama_architecture(nano: Path, shared: Path, loss_on: LossOn) -> None:
    from toolkit.planning.preflight import run_preflight
    from toolkit.recipe.loading import load_recipe

    data = shared / "data" / "xnli_fr"
    paths = [f"data.train.path={data / 'train.jsonl'}", f"data.eval.path={data / 'test.jsonl'}"]
    limits = ["data.train.limit=16", "data.eval.limit=3", f"model.name={nano}"]
    preflight = run_preflight(load_recipe(ROOT / "recipes" / "nli_fr.yaml", [*paths, *limits]))
    rows = [to_training_row(row) for row in preflight.train_rows]
    model = model_with_adapter(nano, preflight.recipe)
    loss, expected = loss_and_gradient(model, PaddedCollator(4, loss_on)(rows))
    nodes = []
    for budget in (400, 10_000):
        step = TreeCollator(budget, loss_on)(rows)
        nodes.append(sum(micro_batch["input_ids"].numel() for micro_batch in step["micro_batches"]))
        tree_loss, actual = loss_and_gradient(model, step)
        assert tree_loss == pytest.approx(loss, rel=1e-5) and relative_error(actual, expected) < 1e-5
    assert nodes[1] < nodes[0] < sum(len(row["prompt"]) for row in rows) / 2
