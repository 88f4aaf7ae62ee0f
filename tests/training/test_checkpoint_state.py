"""Tests that the state of training survives saving and loading bit for bit."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.errors import RunError
from toolkit.training.checkpoint_state import (
    capture_rng_state,
    load_optimizer,
    load_pytree,
    load_trainable,
    restore_rng_state,
    save_pytree,
    save_trainable,
)


def draw_numbers() -> list[object]:
    return [random.random(), random.gauss(), np.random.normal(), np.random.rand(), *torch.rand(3), *torch.randn(3)]


def test_rng_state_survives_json(tmp_path: Path) -> None:
    random.gauss()  # draws a pair and keeps one of the two for the next call, which is part of the state
    np.random.normal()
    (tmp_path / "random.json").write_text(json.dumps(capture_rng_state()), encoding="utf-8")
    expected = draw_numbers()
    draw_numbers()
    restore_rng_state(json.loads((tmp_path / "random.json").read_text(encoding="utf-8")))
    assert draw_numbers() == expected


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_saved_optimizer_takes_the_same_steps(tmp_path: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    def take_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for step in range(count):
            optimizer.zero_grad()
            (model(torch.full((2, 5), 0.1 + step)) ** 2).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3).to(torch.float32))
    model[0].requires_grad_(False)
    saved = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.01)
    take_steps(model, saved, 3)
    save_pytree(tmp_path / "optimizer", saved.state_dict())
    save_trainable(tmp_path / "weights.safetensors", model)
    take_steps(model, saved, 3)
    expected = [parameter.clone() for parameter in model.parameters()]

    with torch.no_grad():
        model[1].weight.zero_()
    load_trainable(tmp_path / "weights.safetensors", model)
    loaded = optimizer([p for p in model.parameters() if p.requires_grad], lr=5.0)
    load_optimizer(tmp_path / "optimizer", loaded)
    take_steps(model, loaded, 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))


def test_pytree_round_trip_is_exact(tmp_path: Path) -> None:
    """Numbers, data types and tensors that share memory are kept; tuples become lists and keys become strings."""
    shared = torch.arange(256, dtype=torch.uint8)
    tree = {
        "state": {0: {"map": shared, "step": 3}, 1: {"map": shared, "nested": {"absmax": torch.tensor(0.1)}}},
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "none": None, "fused": True}],
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }
    save_pytree(tmp_path / "tree", tree)
    loaded = load_pytree(tmp_path / "tree")
    assert torch.equal(loaded["state"]["1"]["map"], shared) and loaded["state"]["0"]["step"] == 3
    assert loaded["state"]["1"]["nested"]["absmax"].shape == ()
    assert loaded["groups"] == [{"lr": 0.1 + 0.2, "betas": [0.9, 0.999], "none": None, "fused": True}]
    assert loaded["half"].dtype == torch.bfloat16 and torch.equal(loaded["half"], tree["half"])


def test_weights_of_a_different_model_are_refused(tmp_path: Path) -> None:
    save_trainable(tmp_path / "weights.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(RunError, match="does not fit the model: only one of them has the parameter bias"):
        load_trainable(tmp_path / "weights.safetensors", torch.nn.Linear(2, 2, bias=False))
