"""Rows through a model: decoded under constraint with every label's likelihood, or what the model says by itself."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.decoding.classifiers import open_classifier
from toolkit.errors import RunError
from toolkit.evaluation.metrics import Predictions
from toolkit.pairs import PairEncoder, RowEncoder
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
    encoder: RowEncoder,
    examples: Sequence[Example],
    held_back: Sequence[Example],
) -> Decoded:
    """Score every label; a decoder's answer is decoded along the labels' trie, an encoder's is the likeliest label.

    Raises:
        ModelError: the model cannot be loaded, or its scores are no numbers.
    """
    rows, extra = encoder.encode(examples), encoder.encode(held_back)
    with open_classifier(model, run, recipe, encoder) as classifier:
        start = time.monotonic()
        scores = classifier.label_scores(rows)
        seconds = time.monotonic() - start
        likelihoods = classifier.label_scores(extra).log_likelihoods if extra else None
    predictions = Predictions(scores.labels, list(scores.decoded), scores.log_likelihoods)
    return Decoded(predictions, seconds, sum(row.shortened for row in rows), likelihoods)


def decode_freely(
    model: str, run: RunFolder, recipe: Recipe, encoder: RowEncoder, examples: Sequence[Example]
) -> Decoded:
    """Let the model speak, and take as label what equals a verbalizer.

    Raises:
        ModelError: the model cannot be loaded.
        RunError: it is an encoder, which does not speak.
    """
    if isinstance(encoder, PairEncoder):
        raise RunError("Free mode needs a model that writes text, but this run's model.kind is encoder.")
    from toolkit.decoding.free import match_verbalizer, open_generator

    rows = encoder.encode(examples)
    with open_generator(model, run, recipe, encoder) as generator:
        start = time.monotonic()
        # A special token within an answer is part of its text, so that it spoils it.
        answers = [encoder.decode(ids) for ids in generator.generate([row.prompt for row in rows])]
        seconds = time.monotonic() - start
    predicted = [match_verbalizer(text, recipe.task.verbalizers) for text in answers]
    predictions = Predictions(tuple(recipe.task.labels), predicted, None, answers)
    return Decoded(predictions, seconds, sum(row.shortened for row in rows))
