"""Scores and answers of every decoder family compared with plain forward passes, also beyond sliding windows."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.stand_ins import SIZES
from tests.models.window_cases import CASES, WINDOW, WINDOWED, StandIns, parametrize_cases
from tests.training.test_family_trees import ignore_window, limit_by_node_index, widen_window
from toolkit.inference.generation import TorchGenerator, cut_at_stop_token
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.torch_scorer import TorchScorer
from toolkit.models import tree_layout
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM

TRIE = LabelTrie({"yes": (20, 99), "but": (20, 21, 22, 99), "no": (30, 99)})
SYSTEM = tuple(range(40, 40 + WINDOW + 8))
"""A common prefix that is longer than the window."""
PROMPTS = [(1, *SYSTEM, 5, i % 3, *range(60, 60 + 4 * (i % 4)), i, 9) for i in range(10)]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture
def model(stand_in: StandIns, case: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(stand_in(case), dtype=torch.float32).eval()


@torch.inference_mode()
def plain_scores(model: Any, prompts: list[tuple[int, ...]]) -> np.ndarray:
    logits = [[model(torch.tensor([[*p, *edge.path]])).logits[0, -1] for edge in TRIE.edges] for p in prompts]
    tokens = [edge.token for edge in TRIE.edges]
    return np.array([[row[i].log_softmax(-1)[token].item() for i, token in enumerate(tokens)] for row in logits])


@parametrize_cases(CASES)
def test_family_scores_equal_plain_forwards(model: Any, case: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = plain_scores(model, PROMPTS)
    assert np.ptp(expected, axis=0).min() > 1e-2, "equal scores would make this test pass for any mask"
    for batch_tokens in (1, 60, 4096):
        actual = TorchScorer(model, TRIE, batch_tokens=batch_tokens).score(PROMPTS)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    # A row without the common prefix leaves nothing to cache.
    without_cache = TorchScorer(model, TRIE, batch_tokens=4096).score([*PROMPTS, (7, 8)])[:-1]
    np.testing.assert_allclose(without_cache, expected, rtol=1e-5)
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("gemma2", {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "sliding_window": WINDOW}),
        ("gemma3_text", {"final_logit_softcapping": 3.0, "sliding_window": WINDOW}),
        ("cohere2", {"logit_scale": 0.25, "sliding_window": WINDOW}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_logit_scales_and_caps_are_applied(
    model_type: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Some models scale or cap the logits of their head, and all of these have trees."""
    sizes = {"vocab_size": 256, "pad_token_id": 0, **SIZES, **fields}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    expected = plain_scores(model, PROMPTS)
    np.testing.assert_allclose(TorchScorer(model, TRIE, batch_tokens=99).score(PROMPTS), expected, rtol=1e-5)
    assert "WARNING" not in caplog.text


def test_models_without_trees_score_separately(caplog: pytest.LogCaptureFixture) -> None:
    """Layers with linear attention carry a state from token to token, whatever the mask."""
    layers = {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2, "num_experts_per_tok": 1}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
    config = AutoConfig.for_model("qwen3_next", **SIZES, **heads, **layers, vocab_size=256)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    actual = TorchScorer(model, TRIE, batch_tokens=4096).score(PROMPTS)
    np.testing.assert_allclose(actual, plain_scores(model, PROMPTS), rtol=1e-4)
    assert "WARNING: a prefix tree cannot be used: layers of the type linear_attention" in caplog.text


@parametrize_cases(WINDOWED)
def test_longer_rows_are_verified_again(model: Any, case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Short rows say nothing about the window."""
    scorer = TorchScorer(model, TRIE, batch_tokens=4096)
    short = [(1, 5), (1, 6, 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_layout, "_limit_to_window", limit_by_node_index)
        np.testing.assert_allclose(scorer.score(short), plain_scores(model, short), rtol=1e-5)
        assert "WARNING" not in caplog.text
        np.testing.assert_allclose(scorer.score(PROMPTS), plain_scores(model, PROMPTS), rtol=1e-5)
    assert "WARNING: a prefix tree changes scores" in caplog.text


@parametrize_cases(WINDOWED)
@pytest.mark.parametrize("limit", [limit_by_node_index, ignore_window, widen_window])
@pytest.mark.parametrize("prompts", [PROMPTS, [*PROMPTS, (7, 8)]], ids=["cached prefix", "no common prefix"])
def test_wrong_windows_are_detected_in_scoring(
    model: Any, case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: Any, prompts: Any
) -> None:
    monkeypatch.setattr(tree_layout, "_limit_to_window", limit)
    actual = TorchScorer(model, TRIE, batch_tokens=4096).score(prompts)
    np.testing.assert_allclose(actual, plain_scores(model, prompts), rtol=1e-5)
    assert "WARNING: a prefix tree changes scores" in caplog.text


@parametrize_cases(CASES)
def test_family_answers_equal_greedy_decoding(model: Any, case: str) -> None:
    with torch.inference_mode():
        expected = []
        for prompt in PROMPTS:
            ids = list(prompt)
            for _ in range(6):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            expected.append(cut_at_stop_token(ids[len(prompt) :], [3]))
    # After scoring, because both use the same model.
    TorchScorer(model, TRIE, batch_tokens=4096).score(PROMPTS)
    assert TorchGenerator(model, [3], max_new_tokens=6).generate(PROMPTS) == expected
