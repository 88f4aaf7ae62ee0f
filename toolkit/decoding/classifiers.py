"""One way to score labels whatever scores them: rows in, each label's log-likelihood and the decoded label out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from toolkit.decoding.engines import Scorer, open_scorer, refuse_non_finite, score
from toolkit.decoding.label_trie import LabelTrie
from toolkit.out_of_memory import scoring_errors
from toolkit.pairs import PairEncoder, RowEncoder
from toolkit.prompts import EncodedRow
from toolkit.recipe import Recipe
from toolkit.run_folder import RunFolder


@dataclass(frozen=True)
class LabelScores:
    """What a model says about rows, in their order.

    Args:
        labels: the classes.
        decoded: the label of each row.
        log_likelihoods: [rows, labels], natural logarithms, finite, not normalised over the labels.
    """

    labels: tuple[str, ...]
    decoded: list[str]
    log_likelihoods: np.ndarray


class Classifier(Protocol):
    """What every kind of model does."""

    labels: tuple[str, ...]

    def label_scores(self, rows: Sequence[Any], *, first_row: int = 1) -> LabelScores:
        """Score encoded rows; a ModelError names those whose scores are no numbers, counted from `first_row`."""
        ...


class TrieClassifier:
    """A decoder under constraint: a label is a path of the trie.

    Args:
        scorer: scores the trie's edges.
        trie: the labels.
    """

    def __init__(self, scorer: Scorer, trie: LabelTrie) -> None:
        self.labels = trie.labels
        self._scorer = scorer
        self._trie = trie

    def label_scores(self, rows: Sequence[EncodedRow], *, first_row: int = 1) -> LabelScores:
        """See `Classifier`; `decoded` is greedy, the likeliest allowed token at each branch."""
        edges = score(self._scorer, [row.prompt for row in rows], first_row=first_row)
        return LabelScores(self.labels, self._trie.greedy(edges), self._trie.label_log_probs(edges))


class HeadClassifier:
    """An encoder: a label is an output of its head, and the likeliest one is the answer.

    Args:
        scorer: a `decoding.encoder_scorer.EncoderScorer`.
        labels: the head's outputs, in order.
    """

    def __init__(self, scorer: Any, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._scorer = scorer

    def label_scores(self, rows: Sequence[Any], *, first_row: int = 1) -> LabelScores:
        """See `Classifier`; on a tie `decoded` is the label that the recipe names first."""
        with scoring_errors():
            scores = self._scorer.score(rows)
        refuse_non_finite(scores, first_row)
        return LabelScores(self.labels, [self.labels[i] for i in scores.argmax(axis=1)], scores)


@contextmanager
def open_classifier(
    model: str, run: RunFolder, recipe: Recipe, encoder: RowEncoder, *, show_progress: bool = True
) -> Iterator[Classifier]:
    """Load `model` (see `RunFolder.model_label`) to score rows of `encoder`, with a progress bar for each call.

    Raises:
        ToolkitError: it cannot be loaded, does not fit the run, or its labels could not be told apart.
    """
    if isinstance(encoder, PairEncoder):
        from toolkit.decoding.encoder_scorer import open_encoder

        head = open_encoder(run, recipe, encoder)
        head.show_progress = show_progress
        yield HeadClassifier(head, encoder.labels)
        return
    trie = LabelTrie(encoder.label_ids)
    with open_scorer(model, run, recipe, trie) as scorer:
        scorer.show_progress = show_progress
        yield TrieClassifier(scorer, trie)
