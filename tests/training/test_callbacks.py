"""Callbacks that training relies on."""

from types import SimpleNamespace

import pytest

from toolkit.batching.sampling import RowOrder
from toolkit.training.callbacks import EpochOrder


@pytest.mark.parametrize(("progress", "epoch"), [(None, 0), (0, 0), (1.0, 1), (1.33, 1)])
def test_an_epoch_that_is_resumed_in_its_middle_has_the_order_it_began_with(progress: float | None, epoch: int) -> None:
    expected, order = RowOrder(range(20), seed=3, grouping=False), RowOrder(range(20), seed=3, grouping=False)
    expected.set_epoch(epoch)
    EpochOrder(order).on_epoch_begin(None, SimpleNamespace(epoch=progress), None)
    assert list(order) == list(expected)
