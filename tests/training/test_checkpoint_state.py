"""The state of training goes through plain files and comes back to the last bit."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import RunError
from toolkit.training.checkpoint_state import (
    load_optimizer,
    load_trained,
    load_tree,
    random_states,
    save_trained,
    save_tree,
    set_random_states,
)


def drawn() -> list[object]:
    return [random.random(), random.gauss(), np.random.normal(), np.random.rand(), *torch.rand(3), *torch.randn(3)]


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.gauss()  # half of a pair is kept for the next call
    np.random.normal()
    (tmp_path / "random.json").write_text(json.dumps(random_states()), encoding="utf-8")
    expected = drawn()
    drawn()
    set_random_states(json.loads((tmp_path / "random.json").read_text(encoding="utf-8")))
    assert drawn() == expected


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimiser_that_was_saved_makes_the_same_steps(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer]
) -> None:
    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for step in range(count):
            optimizer.zero_grad()
            (model(torch.full((2, 5), 0.1 + step)) ** 2).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3).to(torch.float32))
    model[0].requires_grad_(False)
    one = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.01)
    steps(model, one, 3)
    save_tree(tmp_path / "optimizer", one.state_dict())
    save_trained(tmp_path / "weights.safetensors", model)
    steps(model, one, 3)
    expected = [parameter.clone() for parameter in model.parameters()]

    with torch.no_grad():
        model[1].weight.zero_()
    load_trained(tmp_path / "weights.safetensors", model)
    other = optimizer([p for p in model.parameters() if p.requires_grad], lr=5.0)
    load_optimizer(tmp_path / "optimizer", other)
    steps(model, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))


def test_a_tree_keeps_its_numbers_types_and_tensors_that_share_memory(tmp_path: Path) -> None:
    shared = torch.arange(256, dtype=torch.uint8)
    tree = {
        "state": {0: {"map": shared, "step": 3}, 1: {"map": shared, "nested": {"absmax": torch.tensor(0.1)}}},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "none": None, "fused": True}],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }
    save_tree(tmp_path / "tree", tree)
    found = load_tree(tmp_path / "tree")
    assert torch.equal(found["state"]["1"]["map"], shared) and found["state"]["0"]["step"] == 3
    assert found["state"]["1"]["nested"]["absmax"].shape == ()
    assert found["groups"] == [{"lr": 0.1 + 0.2, "betas": [0.9, 0.999], "none": None, "fused": True}]
    assert found["half"].dtype == torch.bfloat16 and torch.equal(found["half"], tree["half"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_trained(tmp_path / "weights.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(RunError, match="is of another model: bias stands in one of them only"):
        load_trained(tmp_path / "weights.safetensors", torch.nn.Linear(2, 2, bias=False))
