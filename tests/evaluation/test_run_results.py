"""A run's results, read back."""

from pathlib import Path
from typing import Any

from toolkit.evaluation.run_results import Evaluation, base_zero_shot, with_base_zero_shot

BASE: dict[str, Any] = {"model": "base", "mode": "constrained", "data": {"fingerprint": "f"}, "accuracy": 0.4}


def evaluation(name: str, **metrics: Any) -> Evaluation:
    return Evaluation(name, Path(name), BASE | metrics)


def test_the_base_models_zero_shot_is_its_plain_evaluation_of_the_same_rows() -> None:
    others = [
        evaluation("base-free", mode="free"),
        evaluation("base-shots4", shots=4),
        evaluation("base@rows", overrides={"task.system": "x", "data.eval.path": "y"}),
        evaluation("adapter", model="adapter"),
    ]
    assert base_zero_shot(others, "f") == {}
    plain = evaluation("base@x-limit3", overrides={"data.eval.limit": 3, "evaluation.batch_tokens": 9})
    assert base_zero_shot([*others, plain], "f") == {"base_zero_shot": 0.4}
    assert base_zero_shot([*others, plain], "g") == base_zero_shot([*others, plain], None) == {}


def test_a_base_that_was_measured_after_the_adapter_stands_beside_it_all_the_same() -> None:
    adapter = evaluation("adapter", model="adapter", baselines={"random": 1 / 3, "base_zero_shot": 0.2})
    without = evaluation("merged", model="merged", baselines={})
    found = with_base_zero_shot([adapter, without, evaluation("base", baselines={"random": 1 / 3})])
    assert found[0].metrics["baselines"] == {"random": 1 / 3, "base_zero_shot": 0.4}
    assert found[1] is without, "baselines that were not asked for are not made up"
    assert found[2].metrics["baselines"] == {"random": 1 / 3}, "the base is no baseline of itself"
