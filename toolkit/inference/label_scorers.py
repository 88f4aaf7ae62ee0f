"""Label scorers: engines that score rows, with the rule by which their scores become labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.inference.checks import check_depends_on_input, check_finite, scoring_errors
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.loading import Scorer, make_torch_scorer, scoring_batch_tokens
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.sentence_pairs import EncodedPair, PairTokenizer, RowTokenizer
from toolkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from toolkit.models.precision import Precision  # imports torch, which scoring a GGUF file does not need


@dataclass(frozen=True)
class LabelScores:
    """The scores of rows under a model, in the order of the rows.

    Args:
        labels: The classes.
        decoded: The predicted label of each row.
        log_likelihoods: Natural logarithms, [rows, labels], not normalized over the labels. They are finite unless the
            scorer was made for a model that is still being trained.
    """

    labels: tuple[str, ...]
    decoded: list[str]
    log_likelihoods: np.ndarray


class LabelScorer(Protocol):
    """The interface of a label scorer."""

    def score_labels(self, rows: Sequence[Any], first_row: int = 1) -> LabelScores:
        """Score encoded rows. `first_row` is the number of the first row in its file, for messages."""
        ...


class TrieLabelScorer:
    """A label scorer for language models, with constrained decoding: a label is a path in the label trie.

    Args:
        scorer: The engine that scores the trie's edges.
        trie: The labels.
        is_trained: Whether training of the model is complete, so that scores which are not finite, or do not depend on
            the input, are an error.
    """

    def __init__(self, scorer: Scorer, trie: LabelTrie, *, is_trained: bool = True) -> None:
        self._scorer = scorer
        self._trie = trie
        self._is_trained = is_trained

    def score_labels(self, rows: Sequence[EncodedRow], first_row: int = 1) -> LabelScores:
        """Score rows. `decoded` follows the most likely allowed token at each branch of the trie."""
        # Greedy decoding, as a generating model would do it. It may differ from the label with the highest likelihood.
        prompts = [row.prompt for row in rows]
        with scoring_errors():
            edges = self._scorer.score(prompts)
        if self._is_trained:
            check_finite(edges, first_row)
            check_depends_on_input(edges, prompts)
        return LabelScores(self._trie.labels, self._trie.greedy(edges), self._trie.label_log_probs(edges))


class HeadLabelScorer:
    """A label scorer for encoders: a label is an output of the classification head.

    Args:
        scorer: An `inference.encoder_scorer.EncoderScorer`.
        labels: The labels in the order of the head's outputs.
        is_trained: See `TrieLabelScorer`.
    """

    def __init__(self, scorer: Any, labels: tuple[str, ...], *, is_trained: bool = True) -> None:
        self._scorer = scorer
        self._labels = labels
        self._is_trained = is_trained

    def score_labels(self, rows: Sequence[EncodedPair], first_row: int = 1) -> LabelScores:
        """Score rows. `decoded` is the most likely label, on a tie the one that comes first in the recipe."""
        with scoring_errors():
            scores = self._scorer.score(rows)
        if self._is_trained:
            check_finite(scores, first_row)
            check_depends_on_input(scores, [row.ids for row in rows])
        return LabelScores(self._labels, [self._labels[i] for i in scores.argmax(axis=1)], scores)


def make_training_scorer(
    model: Any, recipe: Recipe, row_tokenizer: RowTokenizer, precision: "Precision"
) -> LabelScorer:
    """Return a label scorer like that of a `Classifier` for a model in evaluation mode that is still being trained.

    Args:
        model: The model, with its adapter unless all weights are trained.
        recipe: The recipe.
        row_tokenizer: The converter that encoded the rows.
        precision: The precision of the computation.
    """
    if isinstance(row_tokenizer, PairTokenizer):
        from toolkit.inference.encoder_scorer import EncoderScorer
        from toolkit.models.backend import DEVICE

        batch_tokens = scoring_batch_tokens(recipe, DEVICE)
        max_length = recipe.model.max_seq_length
        scorer = EncoderScorer(
            model, row_tokenizer.tokenizer, precision, batch_tokens=batch_tokens, max_length=max_length
        )
        return HeadLabelScorer(scorer, recipe.task.labels, is_trained=False)
    trie = LabelTrie(row_tokenizer.label_ids)
    return TrieLabelScorer(make_torch_scorer(model, recipe, trie), trie, is_trained=False)
