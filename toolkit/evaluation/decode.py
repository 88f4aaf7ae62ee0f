"""Rows through a model: decoded under constraint with every label's likelihood, or what the model says by itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.decoding.engines import open_scorer, score
from toolkit.decoding.label_trie import LabelTrie
from toolkit.evaluation.metrics import Predictions
from toolkit.prompts import PromptEncoder
from toolkit.recipe import Recipe
from toolkit.run_folder import RunFolder
from toolkit.task import Example


@dataclass(frozen=True)
class Decoded:
    """What a model said about the evaluation rows, how long that took, and how many premises lost their end for it.

    `held_back` has the label log-likelihoods of the rows held back from training, [rows, labels]; None where none are.
    """

    predictions: Predictions
    seconds: float
    shortened: int
    held_back: np.ndarray | None = None


def decode_constrained(
    model: str,
    run: RunFolder,
    recipe: Recipe,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    held_back: Sequence[Example],
) -> Decoded:
    """Score every label, and decode greedily along the labels' trie.

    Raises:
        ModelError: the model cannot be loaded, or its scores are no numbers.
    """
    rows = encoder.encode(examples)
    trie = LabelTrie(encoder.label_ids)
    with open_scorer(model, run, recipe, trie) as scorer:
        start = time.monotonic()
        scores = score(scorer, [row.prompt for row in rows])
        seconds = time.monotonic() - start
        extra = [row.prompt for row in encoder.encode(held_back)]
        likelihoods = trie.label_log_probs(score(scorer, extra)) if extra else None
    predictions = Predictions(trie.labels, list(trie.greedy(scores)), trie.label_log_probs(scores))
    return Decoded(predictions, seconds, sum(row.shortened for row in rows), likelihoods)


def decode_freely(
    model: str, run: RunFolder, recipe: Recipe, encoder: PromptEncoder, examples: Sequence[Example]
) -> Decoded:
    """Let the model speak, and take as label what equals a verbalizer.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from toolkit.decoding.free import match_verbalizer, open_generator

    rows = encoder.encode(examples)
    with open_generator(model, run, recipe, encoder) as generator:
        start = time.monotonic()
        answers = [encoder.decode_answer(ids) for ids in generator.generate([row.prompt for row in rows])]
        seconds = time.monotonic() - start
    predicted = [match_verbalizer(text, recipe.task.verbalizers) for text in answers]
    predictions = Predictions(tuple(recipe.task.labels), predicted, None, answers)
    return Decoded(predictions, seconds, sum(row.shortened for row in rows))
