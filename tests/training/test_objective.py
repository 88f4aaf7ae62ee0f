"""The objective: a tree gives the gradient of padded rows, however a step is parted and whatever is trained."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator, training_row
from toolkit.errors import TrainingError
from toolkit.models.loading import attach_lora, load_base
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Lora, Recipe
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


def test_the_head_makes_logits_where_something_is_trained_and_nowhere_else(tiny_model: Path, make_recipe: Any) -> None:
    model = adapted(tiny_model, make_recipe())
    head, seen = model.get_base_model().get_output_embeddings(), []
    plain = head.forward

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape)
        return plain(hidden)

    head.forward = watched  # as hooks of accelerate do; it must still stand there afterwards
    for collator in (PaddedCollator(9, "completion"), TreeCollator(10_000, "completion")):
        gradient(model, collator(ROWS))
        assert head.forward is watched
    assert seen == [(sum(len(row["answer"]) for row in ROWS), head.in_features)] * 2
    del head.forward
    gradient(model, PaddedCollator(9, "completion")(ROWS))
    assert "forward" not in vars(head)


def test_what_a_model_does_to_its_logits_is_trained_too(
    tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma caps its logits and Granite scales them, behind the head."""
    model = adapted(tiny_model, make_recipe())
    base = model.get_base_model()
    forward, step = base.forward, TreeCollator(10_000, "completion")(ROWS)
    plain = gradient(model, step)[0]

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits / 1e6
        return output

    monkeypatch.setattr(base, "forward", scaled)
    assert gradient(model, step)[0] == pytest.approx(math.log(base_vocabulary(model)), rel=1e-3) != plain


def base_vocabulary(model: Any) -> int:
    return model.get_base_model().config.vocab_size


def test_empty_logits_are_refused(tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tiny_model, make_recipe())
    base = model.get_base_model()
    forward = base.forward

    def without_logits(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = torch.empty(0)
        return output

    monkeypatch.setattr(base, "forward", without_logits)
    with pytest.raises(TrainingError, match=r"logits of shape \[0\] for 27 predictions"):
        gradient(model, TreeCollator(10_000, "completion")(ROWS))


def test_in_4_bit_a_tree_is_as_near_as_another_padding(tiny_model: Path, make_recipe: Any) -> None:
    model = adapted(tiny_model, make_recipe("model.load_in_4bit=true"))
    expected = gradient(model, PaddedCollator(len(ROWS), "completion")(ROWS))[1]
    # bitsandbytes multiplies in another precision for other shapes: even the padding moves the gradient.
    assert error(gradient(model, PaddedCollator(2, "completion")(ROWS))[1], expected) < 1e-2
    assert error(gradient(model, TreeCollator(10_000, "completion")(ROWS))[1], expected) < 1e-2


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
def test_real_rows_on_llamas_shape_and_tokenizer(nano: Path, shared: Path, loss_on: LossOn) -> None:
    from toolkit.planning.preflight import run_preflight
    from toolkit.recipe.loading import load_recipe

    data = shared / "data" / "xnli_fr"
    paths = [f"data.train.path={data / 'train.jsonl'}", f"data.eval.path={data / 'test.jsonl'}"]
    limits = ["data.train.limit=16", "data.eval.limit=3", f"model.name={nano}"]
    preflight = run_preflight(load_recipe(ROOT / "recipes" / "nli_fr.yaml", [*paths, *limits]))
    rows = [training_row(row) for row in preflight.train_rows]
    model = adapted(nano, preflight.recipe)
    loss, expected = gradient(model, PaddedCollator(4, loss_on)(rows))
    nodes = []
    for budget in (400, 10_000):
        step = TreeCollator(budget, loss_on)(rows)
        nodes.append(sum(part["input_ids"].numel() for part in step["parts"]))
        tree_loss, found = gradient(model, step)
        assert tree_loss == pytest.approx(loss, rel=1e-5) and error(found, expected) < 1e-5
    assert nodes[1] < nodes[0] < sum(len(row["prompt"]) for row in rows) / 2
