"""Gradients of prefix trees compared with padded rows, for every decoder family and for windows shorter than rows."""

from typing import Any

import pytest
import torch

from tests.models.window_cases import CASES, WINDOWED, StandIns, parametrize_cases
from tests.training.test_objective import FLOAT32, ROWS, loss_and_gradient, model_with_adapter, relative_error
from toolkit.batching.collators import LossOn, PaddedCollator, TreeCollator
from toolkit.models import tree_layout
from toolkit.training.verification import verify_tree


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@parametrize_cases(CASES)
@pytest.mark.parametrize(("checkpointing", "loss_on"), [(False, "completion"), (True, "full_text")])
def test_family_tree_equals_padded_rows(
    stand_in: StandIns, make_recipe: Any, case: str, checkpointing: bool, loss_on: LossOn
) -> None:
    model = model_with_adapter(stand_in(case), make_recipe(), checkpointing=checkpointing)
    expected_loss, expected = loss_and_gradient(model, PaddedCollator(1, loss_on)(ROWS))
    steps = [PaddedCollator(4, loss_on)(ROWS), TreeCollator(60, loss_on)(ROWS), TreeCollator(10_000, loss_on)(ROWS)]
    assert [len(step["micro_batches"]) for step in steps] == [3, 2, 1]
    for step in steps:
        loss, actual = loss_and_gradient(model, step)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative_error(actual, expected) < 1e-5
    verification = verify_tree(model, ROWS, loss_on, FLOAT32)
    assert verification.passed and verification.gradient_difference is not None
    assert verification.gradient_difference < 1e-5


def limit_by_node_index(
    mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: int | None
) -> torch.Tensor:
    index = torch.arange(keys.shape[1])
    return mask if window is None else mask & (index > index[-mask.shape[2] :, None] - window)


def ignore_window(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    return mask


def widen_window(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Use `>=` instead of `>`."""
    return LIMIT(mask, queries, keys, window and window + 1)


LIMIT = tree_layout._limit_to_window


@parametrize_cases(WINDOWED)
@pytest.mark.parametrize("limit", [limit_by_node_index, ignore_window, widen_window])
def test_wrong_windows_are_detected(
    stand_in: StandIns, make_recipe: Any, monkeypatch: pytest.MonkeyPatch, case: str, limit: Any
) -> None:
    monkeypatch.setattr(tree_layout, "_limit_to_window", limit)
    verification = verify_tree(model_with_adapter(stand_in(case), make_recipe()), ROWS, "completion", FLOAT32)
    assert not verification.passed and verification.error is None
