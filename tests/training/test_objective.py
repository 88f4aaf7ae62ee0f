"""The objective: a tree gives the gradient of padded rows, however a step is parted and whatever is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator
from toolkit.model.loading import attach_lora, load_base
from toolkit.model.precision import Precision
from toolkit.recipe import Lora, Recipe
from toolkit.training import objective
from toolkit.training.objective import summed_loss

FULL = Precision("float32", "test")
SYSTEM = list(range(10, 30))
ROWS: list[Row] = [
    {"prompt": [1, *SYSTEM, *premise, *hypothesis, 7, 8], "answer": answer}
    for premise in ([40, 41, 42, 43], [40, 41, 50], [60, 61, 62, 63, 64])
    for hypothesis, answer in (([70, 71], [80, 81, 99]), ([70, 72, 73], [82, 99]), ([74], [80, 83, 84, 99]))
]


def adapted(folder: Path, recipe: Recipe, *, checkpointing: bool = False) -> Any:
    model = load_base(folder, recipe, FULL, gradient_checkpointing=checkpointing)
    model = attach_lora(model, Lora(r=4, alpha=8, dropout=0.0), seed=1, gradient_checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave the A matrices without a gradient
            parameter.data.normal_(0, 0.02, generator=generator)
    return model.train()


def gradient(model: Any, step: dict[str, Any]) -> tuple[float, torch.Tensor]:
    head, loss = model.get_base_model().get_output_embeddings(), 0.0
    for part in step["parts"]:
        share = summed_loss(model, head, part) / step["trained"].item()
        share.backward()
        loss += share.item()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return loss, flat


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.norm() > 0
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_tree_has_the_gradient_of_padded_rows_whatever_the_parts(
    tiny_model: Path, make_recipe: Any, loss_on: LossOn, checkpointing: bool
) -> None:
    model = adapted(tiny_model, make_recipe(), checkpointing=checkpointing)
    expected_loss, expected = gradient(model, PaddedCollator(len(ROWS), loss_on)(ROWS))
    steps = [PaddedCollator(1, loss_on)(ROWS), PaddedCollator(2, loss_on)(ROWS)]
    steps += [TreeCollator(budget, loss_on)(ROWS) for budget in (1, 40, 60, 10_000)]
    assert [len(step["parts"]) for step in steps] == [9, 5, 9, 5, 2, 1]
    for step in steps:
        loss, found = gradient(model, step)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert error(found, expected) < 1e-5


def test_the_gradient_is_that_of_full_logits_and_stock_cross_entropy(tiny_model: Path, make_recipe: Any) -> None:
    model = adapted(tiny_model, make_recipe())
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
    assert error(gradient(model, TreeCollator(10_000, "completion")(ROWS))[1], expected) < 1e-5


def test_a_head_that_reads_in_chunks_gives_the_same(
    tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, step = adapted(tiny_model, make_recipe()), TreeCollator(10_000, "full_text")(ROWS)
    loss, expected = gradient(model, step)
    monkeypatch.setattr(objective, "_HEAD_ROWS", 7)
    chunked_loss, found = gradient(model, step)
    assert chunked_loss == pytest.approx(loss, rel=1e-6) and error(found, expected) < 1e-5


def test_the_head_makes_logits_where_something_is_trained_and_nowhere_else(tiny_model: Path, make_recipe: Any) -> None:
    model = adapted(tiny_model, make_recipe())
    head, seen = model.get_base_model().get_output_embeddings(), []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))
    for collator in (PaddedCollator(9, "completion"), TreeCollator(10_000, "completion")):
        seen.clear()
        gradient(model, collator(ROWS))
        passed_through, (read, made) = seen
        assert passed_through[0] == passed_through[1]
        assert read[0] == made[0] == sum(len(row["answer"]) for row in ROWS) and made[1] > read[1]
    hook.remove()
    assert "forward" not in vars(head)


def test_in_4_bit_a_tree_is_as_near_as_another_padding(tiny_model: Path, make_recipe: Any) -> None:
    model = adapted(tiny_model, make_recipe("model.load_in_4bit=true"))
    expected = gradient(model, PaddedCollator(len(ROWS), "completion")(ROWS))[1]
    # bitsandbytes multiplies in another precision for other shapes: even the padding moves the gradient.
    assert error(gradient(model, PaddedCollator(2, "completion")(ROWS))[1], expected) < 1e-2
    assert error(gradient(model, TreeCollator(10_000, "completion")(ROWS))[1], expected) < 1e-2
