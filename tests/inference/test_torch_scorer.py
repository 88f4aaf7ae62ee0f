"""The torch scorer against full logits, one row against many, and trees against backends that get them wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.torch_scorer import TorchScorer
from toolkit.models.backend import AutoModelForCausalLM

PROMPTS = [(1, 5, 9), (1, 5, 9, 12, 40, 41, 42), (1,), (7, 7, 7, 7), (1, 5, 9), (1, 5, 9, 12, 40, 50)]
TRIE = LabelTrie({"yes": (20, 99), "but": (20, 21, 22, 99), "no": (30, 99)})


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def scores(model: Any, batch_tokens: int = 4096, prompts: list[tuple[int, ...]] = PROMPTS) -> np.ndarray:
    return TorchScorer(model, TRIE, batch_tokens=batch_tokens).score(prompts)


def test_edges_have_the_log_probabilities_of_full_logits(model: Any) -> None:
    found = scores(model)
    for row, prompt in enumerate(PROMPTS):
        for column, edge in enumerate(TRIE.edges):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1]
            assert found[row, column] == pytest.approx(logits.log_softmax(-1)[edge.token].item(), abs=1e-4)


def test_one_row_and_many_give_the_same_numbers(model: Any) -> None:
    together = scores(model)
    alone = np.concatenate([scores(model, prompts=[prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together, scores(model, batch_tokens=1), atol=1e-4)


def test_the_labels_scores_differ(model: Any) -> None:
    assert (np.ptp(TRIE.label_log_probs(scores(model)), axis=1) > 0.1).all()


def test_rows_come_back_in_the_order_in_which_they_were_given(model: Any) -> None:
    order = [4, 2, 0, 5, 3, 1]
    np.testing.assert_allclose(scores(model, prompts=[PROMPTS[i] for i in order]), scores(model)[order], atol=1e-5)


def test_no_forward_pass_is_larger_than_the_budget_however_many_rows_there_are(model: Any) -> None:
    sizes: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    prompts = [(1, *range(40), i % 7, i // 7) for i in range(200)]
    found = scores(model, batch_tokens=100, prompts=prompts)
    hook.remove()
    assert max(sizes) <= 100 and np.isfinite(found).all()
    # Each row adds its last token, perhaps the one before, and four nodes of labels to the 41 that all share.
    assert sum(sizes) < 200 * 14 < sum(map(len, prompts)) / 2


def test_what_all_rows_begin_with_is_read_once_and_changes_no_score(model: Any) -> None:
    prompts = [(1, *range(40), i % 5, i, *range(i % 3)) for i in range(30)]
    read: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    found = scores(model, batch_tokens=50, prompts=prompts)
    hook.remove()
    assert read[0] == 41, "the beginning"
    assert len(read) > 5 and sum(read[2:]) < 30 * 9
    np.testing.assert_allclose(found, np.concatenate([scores(model, prompts=[p]) for p in prompts]), atol=1e-4)
    with torch.inference_mode():
        logits = model(torch.tensor([prompts[17]])).logits[0, -1]
    assert found[17, 0] == pytest.approx(logits.log_softmax(-1)[TRIE.edges[0].token].item(), abs=1e-4)


def test_logits_that_a_patched_forward_leaves_empty_are_never_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scores(model)

    def empty(*_: Any, **__: Any) -> Any:
        raise AssertionError("the causal model's own forward, whose logits may be empty, was called")

    monkeypatch.setattr(type(model), "forward", empty)
    np.testing.assert_array_equal(scores(model), expected)


def test_where_a_backend_drops_the_mask_rows_are_scored_alone_and_it_is_said(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = scores(model)
    decoder = type(model.get_decoder())
    forward = decoder.forward

    def without_mask(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(decoder, "forward", without_mask)
    with caplog.at_level("INFO", logger="toolkit"):
        np.testing.assert_allclose(scores(model), expected, atol=1e-4)
    assert "WARNING: a prefix tree scores" in caplog.text
