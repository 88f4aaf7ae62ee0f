"""The torch scorer compared with full logits, single rows with batches, and backends that break prefix trees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit.batching.sampling import LENGTH_MULTIPLES
from toolkit.errors import ModelError
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


def test_scores_equal_full_logits(model: Any) -> None:
    actual = scores(model)
    for row, prompt in enumerate(PROMPTS):
        for column, edge in enumerate(TRIE.edges):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *edge.path]])).logits[0, -1]
            assert actual[row, column] == pytest.approx(logits.log_softmax(-1)[edge.token].item(), abs=1e-4)


def test_batching_does_not_change_scores(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = scores(model)
    separate = np.concatenate([scores(model, prompts=[prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(batched, separate, atol=1e-4)
    np.testing.assert_allclose(batched, scores(model, batch_tokens=1), atol=1e-4)
    monkeypatch.setitem(LENGTH_MULTIPLES, ("cpu", 4), 128)  # as on a GPU
    np.testing.assert_allclose(batched, scores(model), atol=1e-4)


def test_labels_have_different_scores(model: Any) -> None:
    assert (np.ptp(TRIE.label_log_probs(scores(model)), axis=1) > 0.1).all()


def test_scores_keep_the_order_of_rows(model: Any) -> None:
    order = [4, 2, 0, 5, 3, 1]
    np.testing.assert_allclose(scores(model, prompts=[PROMPTS[i] for i in order]), scores(model)[order], atol=1e-5)


def test_forward_passes_respect_their_budget(model: Any) -> None:
    sizes: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    prompts = [(1, *range(40), i % 7, i // 7) for i in range(200)]
    actual = scores(model, batch_tokens=100, prompts=prompts)
    hook.remove()
    assert max(sizes) <= 100 and np.isfinite(actual).all()
    # To the 41 shared nodes, each row adds its last token, perhaps the token before it, and four nodes of labels.
    assert sum(sizes) < 200 * 14 < sum(map(len, prompts)) / 2


def test_common_prefix_is_computed_once(model: Any) -> None:
    """The cached prefix does not change scores."""
    prompts = [(1, *range(40), i % 5, i, *range(i % 3)) for i in range(30)]
    sizes: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    actual = scores(model, batch_tokens=50, prompts=prompts)
    hook.remove()
    assert sizes[0] == 41, "the common prefix"
    # After the prefix come the verified tree and its two rows, scored separately.
    assert len(sizes) > 5 and sum(sizes[4:]) < 30 * 9
    np.testing.assert_allclose(actual, np.concatenate([scores(model, prompts=[p]) for p in prompts]), atol=1e-4)
    with torch.inference_mode():
        logits = model(torch.tensor([prompts[17]])).logits[0, -1]
    assert actual[17, 0] == pytest.approx(logits.log_softmax(-1)[TRIE.edges[0].token].item(), abs=1e-4)


def test_model_logits_are_never_used(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth's patched forward may leave them empty."""
    expected = scores(model)

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("the causal model's own forward, whose logits may be empty, was called")

    monkeypatch.setattr(type(model), "forward", fail)
    np.testing.assert_array_equal(scores(model), expected)


@pytest.mark.parametrize(
    ("ignored", "attentions"),
    [(("tree_layout",), ["dense"]), (("attention_mask", "tree_layout"), [None])],
    ids=["split fails", "both fail"],
)
@pytest.mark.parametrize("prompts", [PROMPTS, [(1, 5, *prompt) for prompt in PROMPTS]], ids=["no prefix", "prefix"])
def test_ignored_inputs_are_detected(
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ignored: tuple[str, ...],
    attentions: list[str | None],
    prompts: list[tuple[int, ...]],
) -> None:
    """If a backend ignores the tree's layout, attention is dense. If it also ignores masks, rows are separate."""
    expected = scores(model, prompts=prompts)
    decoder = type(model.get_decoder())
    forward = decoder.forward

    def ignore(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{name: value for name, value in kwargs.items() if name not in ignored})

    monkeypatch.setattr(decoder, "forward", ignore)
    scorer = TorchScorer(model, TRIE, batch_tokens=4096)
    with caplog.at_level("INFO", logger="toolkit"):
        np.testing.assert_allclose(scorer.score(prompts), expected, atol=1e-4)
    assert list(scorer._verified.values()) == attentions
    assert "A prefix tree with split attention " in caplog.text
    assert ("WARNING: a prefix tree changes scores" in caplog.text) == (attentions == [None])
    caplog.clear()
    np.testing.assert_allclose(scorer.score(prompts), expected, atol=1e-4)
    assert not caplog.text, "trees are verified once"


def test_trees_are_split_by_default(model: Any) -> None:
    scorer = TorchScorer(model, TRIE, batch_tokens=4096)
    scorer.score(PROMPTS)
    assert scorer._verified == {False: "split"}


def test_unknown_token_ids_are_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"gives the token id 9999, but the model has only \d+ tokens"):
        scores(model, prompts=[(1, 5), (1, 9999)])
