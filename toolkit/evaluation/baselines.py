"""Baselines that put an accuracy into perspective, and warnings about what an accuracy hides."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from toolkit.data.example import Example
from toolkit.data.splits import Splits
from toolkit.evaluation.intervals import wilson_interval
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.recipe.schema import Recipe
from toolkit.utils.formatting import join_names

_WORD = r"(?u)\b\w+\b"  # scikit-learn's default drops one-letter words, but "a", "à" and "y" are words in French
_SIGNIFICANCE_LEVEL = 0.001
ALL_INPUTS, PREMISE_HYPOTHESIS, HYPOTHESIS_ONLY = "all_inputs", "premise_hypothesis", "hypothesis_only"
_WITHOUT_WORDS = ("random", "majority", "base_zero_shot")
"""The baselines that are not bag-of-words classifiers."""


def bag_of_words_inputs(inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the inputs that each bag-of-words baseline reads, by the name of the baseline.

    There is one for each input, if there are several, and one for all of them. A premise alone says nothing about the
    label, so in natural language inference only the hypothesis is tried alone.
    """
    if tuple(inputs) == NLI_INPUTS:
        return {HYPOTHESIS_ONLY: ("hypothesis",), PREMISE_HYPOTHESIS: NLI_INPUTS}
    single = {f"{name}_only": (name,) for name in inputs} if len(inputs) > 1 else {}
    return single | {ALL_INPUTS: tuple(inputs)}


def baseline_accuracies(
    train: Sequence[Example], evaluation: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """Measure the accuracy of simple classifiers on the evaluation rows.

    Args:
        train: The rows to fit on.
        evaluation: The rows to score.
        labels: The classes.

    Returns:
        The accuracy of each baseline: those of `baseline_predictions`, and `random`, the expected accuracy of a uniform
        guess.
    """
    gold = np.array([row.label for row in evaluation], dtype=object)
    predictions = baseline_predictions(train, evaluation)
    return {"random": 1 / len(labels)} | {
        name: float((predicted == gold).mean()) for name, predicted in predictions.items()
    }


def baseline_predictions(train: Sequence[Example], evaluation: Sequence[Example]) -> dict[str, np.ndarray]:
    """Return the labels that simple classifiers predict for the evaluation rows, [rows] each.

    Args:
        train: The rows to fit on.
        evaluation: The rows to predict.

    Returns:
        The predictions of each baseline:

        - `majority`: always the majority class of the training rows.
        - `<input>_only`, e.g. `hypothesis_only`: logistic regression on TF-IDF of the input's unigrams and bigrams
          (Poliak et al. 2018, arXiv 1805.01042). Far above chance, it shows that labels can be guessed from how
          hypotheses are written. See `bag_of_words_inputs`.
        - `all_inputs`, for NLI `premise_hypothesis`: the same with the features of all inputs. A linear classifier
          weighs the words of both sentences but cannot compare the sentences.
    """
    train = [row for row in train if not row.is_tied] or train  # a tied soft label has no single gold label
    texts, gold, eval_texts = _text_columns(train), [row.label for row in train], _text_columns(evaluation)
    names = tuple(evaluation[0].inputs)
    classifiers = {"majority": DummyClassifier(strategy="most_frequent")} | {
        baseline: _tfidf_classifier(texts, [names.index(name) for name in inputs])
        for baseline, inputs in bag_of_words_inputs(names).items()
    }
    return {name: classifier.fit(texts, gold).predict(eval_texts) for name, classifier in classifiers.items()}


def _text_columns(rows: Sequence[Example]) -> np.ndarray:
    # dtype=object: a fixed-width string array would pad every text to the length of the longest one.
    return np.array([row.texts for row in rows], dtype=object)


def _tfidf_classifier(texts: np.ndarray, columns: Sequence[int]) -> Pipeline | DummyClassifier:
    """Return a classifier of the words in some columns, or the majority class if they have none, e.g. only emoji."""
    columns = [column for column in columns if any(re.search(_WORD, text) for text in texts[:, column])]
    if not columns:
        return DummyClassifier(strategy="most_frequent")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD)
    # ColumnTransformer clones the vectorizer per column, so a word in the premise and the same word in the hypothesis
    # are two different features.
    features = ColumnTransformer([(str(column), vectorizer, column) for column in columns])
    return make_pipeline(features, LogisticRegression(max_iter=1000))


def data_warnings(baselines: Mapping[str, float], evaluation: Sequence[Example]) -> list[str]:
    """Return warnings about the data that anyone who reads the accuracy should know, usually none.

    There is one for each input that alone predicts the label. The accuracy of its baseline counts as far above chance
    if always predicting the majority class of the evaluation rows would reach it in fewer than one in a thousand
    samples of rows (one-sided exact binomial test). Then neither luck nor class imbalance explains it. For 2,490 rows
    of three balanced labels, this is the case at 36.3% or more.

    Args:
        baselines: The result of `baseline_accuracies`, can be empty.
        evaluation: The evaluation rows.
    """
    inputs, rows = tuple(evaluation[0].inputs), len(evaluation)
    majority_share = max(Counter(row.label for row in evaluation).values()) / rows
    warnings = []
    for name in inputs if len(inputs) > 1 else ():
        if (accuracy := baselines.get(f"{name}_only")) is None:
            continue
        correct = round(accuracy * rows)  # the accuracy is this count divided by the number of rows
        if binomtest(correct, rows, majority_share, alternative="greater").pvalue < _SIGNIFICANCE_LEVEL:
            low, high = wilson_interval(correct, rows)
            warnings.append(
                f"A classifier that sees only the {name} is right on {accuracy:.1%} [{low:.1%}, {high:.1%}] of "
                f"{rows:,} rows. Always predicting the majority class is right on {majority_share:.1%}. Part of the "
                f"model's accuracy may come from {_shortcut(inputs, name)}."
            )
    return warnings


def dev_row_warnings(recipe: Recipe, splits: Splits) -> list[str]:
    """Return a warning if evaluation rows are dev rows by which the evaluated step of training was chosen.

    Args:
        recipe: The recipe that the run was trained with.
        splits: The dev rows of the run and the evaluation rows.
    """
    training, dev = recipe.training, {row.texts for row in splits.dev}
    count = sum(row.texts in dev for row in splits.eval)
    if not count or (training.keep == "last" and training.early_stopping_patience is None):
        return []
    return [
        f"{count:,} of {len(splits.eval):,} evaluation rows are dev rows, which were used to choose the step, so the "
        "score is too optimistic. Compare models on other rows."
    ]


def _shortcut(inputs: tuple[str, ...], name: str) -> str:
    if inputs == NLI_INPUTS:
        return "how hypotheses are written, not from comparing them with their premises"
    others = join_names([other for other in inputs if other != name], "and")
    return f"how the {name} is written, not from comparing it with the {others}"


def answer_warnings(
    predicted: Sequence[str | None], evaluation: Sequence[Example], baselines: Mapping[str, float]
) -> list[str]:
    """Return warnings about flaws in the answers that an accuracy hides, usually none.

    Args:
        predicted: The decoded label of each row, None for an answer that is not a label.
        evaluation: The evaluation rows.
        baselines: The result of `baseline_accuracies`, can be empty.
    """
    distinct_answers, warnings = set(predicted), []
    if distinct_answers == {None}:
        warnings.append(
            "No answer is a label. Use constrained decoding, or train the model with training.objective: tokens before "
            "free generation."
        )
    elif len(distinct_answers) == 1 and len({row.label for row in evaluation}) > 1:
        warnings.append(
            f"Every row gets the same answer ({next(iter(distinct_answers))}), so the model does not distinguish the "
            "labels. Train longer, or choose verbalizers made of words that the model knows."
        )
    correct = sum(label == row.label for label, row in zip(predicted, evaluation, strict=True))
    low, high = wilson_interval(correct, len(evaluation))
    # Compared with the upper bound: on few rows, a baseline that scores a little higher proves nothing.
    tfidf_accuracy = max((baselines[name] for name in baselines if name not in _WITHOUT_WORDS), default=0.0)
    if tfidf_accuracy > high:
        warnings.append(
            f"A linear bag-of-words classifier is right on {tfidf_accuracy:.1%} of the rows, this model on only "
            f"{correct / len(evaluation):.1%} [{low:.1%}, {high:.1%}]."
        )
    return warnings
