"""The label trie: every decoded answer is a label, and likelihoods are those of complete sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import RecipeError
from toolkit.inference.label_trie import Edge, LabelTrie

END = 99
LABEL_IDS = {"yes": (1, END), "but": (1, 2, END), "no": (3, END)}


def test_shared_first_tokens_make_one_edge() -> None:
    trie = LabelTrie(LABEL_IDS)
    assert trie.edges.count(Edge((), 1)) == 1
    assert trie.contexts == ((), (1,), (1, 2), (3,))


def test_greedy_decoding_follows_branches() -> None:
    """Greedy decoding takes the most likely token at each branch, even if the complete sequence is less likely."""
    trie = LabelTrie(LABEL_IDS)
    log_probs = {Edge((), 1): 0.6, Edge((), 3): 0.4, Edge((1,), END): 0.5, Edge((1,), 2): 0.45, Edge((1, 2), END): 1.0}
    row = np.log([[log_probs.get(edge, 0.99) for edge in trie.edges]])
    assert trie.greedy(row) == ["yes"]
    assert trie.labels[trie.label_log_probs(row).argmax()] == "no"
    np.testing.assert_allclose(np.exp(trie.label_log_probs(row)), [[0.3, 0.27, 0.4 * 0.99]])


def test_tie_goes_to_first_label() -> None:
    trie = LabelTrie({"b": (5, END), "a": (4, END)})
    assert trie.greedy(np.zeros((1, len(trie.edges)))) == ["b"]


@pytest.mark.parametrize("sequences", [{"a": (1,), "b": (1, 2)}, {"a": (1, END), "b": (1, END)}, {"a": (), "b": (1,)}])
def test_ambiguous_labels_are_refused(sequences: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(RecipeError):
        LabelTrie(sequences)


@given(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=2, max_size=6, unique=True), st.data())
def test_decoded_answer_is_always_a_label(paths: list[tuple[int, ...]], data: st.DataObject) -> None:
    """A label's likelihood is the product of its edges' probabilities."""
    trie = LabelTrie({str(i): (*path, END) for i, path in enumerate(paths)})
    scores = data.draw(st.lists(st.floats(-50, 0), min_size=len(trie.edges), max_size=len(trie.edges)))
    assert trie.greedy(np.array([scores]))[0] in trie.labels
    likelihoods = trie.label_log_probs(np.array([scores]))[0]
    index = {edge: i for i, edge in enumerate(trie.edges)}
    for label, value in zip(trie.labels, likelihoods, strict=True):
        ids = trie.sequences[label]
        assert value == pytest.approx(sum(scores[index[Edge(ids[:i], ids[i])]] for i in range(len(ids))))
