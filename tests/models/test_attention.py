"""Models that cannot compute prefix trees, and models with sliding windows."""

from typing import Any

import pytest

from tests.models.stand_ins import stand_in_config
from tests.models.window_cases import CASES, WINDOWED, parametrize_cases
from toolkit.models.attention import find_tree_problem, sliding_window
from toolkit.models.backend import AutoConfig


@parametrize_cases(CASES)
def test_known_families_have_no_problem(case: str) -> None:
    shape, overrides = CASES[case]
    config = stand_in_config(shape, **overrides)
    assert find_tree_problem(config) is None
    assert sliding_window(config) == (16 if case == "gemma3" else 12 if case in WINDOWED else None)


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}, "attend to later tokens"),
        ("llama", {"is_causal": False}, "attend to later tokens"),
        ("qwen3_next", {}, "layers of the type linear_attention"),
        ("llama4_text", {}, "layers of the type chunked_attention"),
        ("mamba", {}, "layers of the type linear_attention"),
    ],
)
def test_other_attention_is_a_problem(model_type: str, fields: dict[str, Any], reason: str) -> None:
    problem = find_tree_problem(AutoConfig.for_model(model_type, **fields))
    assert problem is not None and reason in problem
