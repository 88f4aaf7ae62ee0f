"""Tests of the trainer's callbacks."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.batching.sampling import RowOrder
from toolkit.training import callbacks
from toolkit.training.callbacks import EpochOrder, Progress, TrainLog


@pytest.mark.parametrize(("progress", "epoch"), [(None, 0), (0, 0), (1.0, 1), (1.33, 1)])
def test_resumed_epoch_keeps_its_row_order(progress: float | None, epoch: int) -> None:
    expected, order = RowOrder(range(20), seed=3, grouping=False), RowOrder(range(20), seed=3, grouping=False)
    expected.set_epoch(epoch)
    EpochOrder(order).on_epoch_begin(None, SimpleNamespace(epoch=progress), None)
    assert list(order) == list(expected)


def test_bar_keeps_the_latest_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def set_postfix(values: dict[str, str], *, refresh: bool) -> None:
        shown.append(" ".join(f"{name}={value}" for name, value in values.items()))

    bar = SimpleNamespace(set_postfix=set_postfix)
    monkeypatch.setattr(callbacks, "progress_bar", lambda **_: bar)
    progress, state = Progress(), SimpleNamespace(is_world_process_zero=True, max_steps=9, global_step=0)
    progress.on_train_begin(None, state, None)
    for logs in (
        {"loss": 1.0},
        {"loss": 0.5, "dev_nll": 0.7, "dev_accuracy": 0.75},
        {"loss": 0.25},
        {"train_loss": 0.5},
    ):
        progress.on_log(None, state, None, logs=logs)
    assert shown == [
        "loss=1.0000",
        "loss=0.5000 dev_nll=0.7000 dev_accuracy=0.7500",
        "loss=0.2500 dev_nll=0.7000 dev_accuracy=0.7500",
    ]


def test_log_line_has_the_validation(tmp_path: Path) -> None:
    log, state = TrainLog(tmp_path / "log.jsonl"), SimpleNamespace(log_history=[{"step": 1, "loss": 1.0}])
    log.on_log(None, state, None, logs={"loss": 1.0})
    dev = {"dev_accuracy": 0.75, "dev_macro_f1": 0.7, "dev_nll": 0.5, "dev_seconds": 0.25}
    state.log_history.append({"step": 2, "loss": 0.5, **dev})
    log.on_log(None, state, None, logs={"loss": 0.5, **dev})
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert not set(first) & set(dev) and {name: second[name] for name in dev} == dev
