"""Tests of the trainer's callbacks."""

from types import SimpleNamespace

import pytest

from toolkit.batching.sampling import RowOrder
from toolkit.training.callbacks import EpochOrder


@pytest.mark.parametrize(("progress", "epoch"), [(None, 0), (0, 0), (1.0, 1), (1.33, 1)])
def test_resumed_epoch_keeps_its_row_order(progress: float | None, epoch: int) -> None:
    expected, order = RowOrder(range(20), seed=3, grouping=False), RowOrder(range(20), seed=3, grouping=False)
    expected.set_epoch(epoch)
    EpochOrder(order).on_epoch_begin(None, SimpleNamespace(epoch=progress), None)
    assert list(order) == list(expected)
