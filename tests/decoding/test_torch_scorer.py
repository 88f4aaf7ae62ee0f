"""The torch scorer against full logits, and one row against many."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.decoding.label_trie import LabelTrie
from toolkit.decoding.torch_scorer import TorchScorer
from toolkit.model.backend import AutoModelForCausalLM

PROMPTS = [(1, 5, 9), (1, 5, 9, 12, 40, 41, 42), (1,), (7, 7, 7, 7)]
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
