"""Baselines that put an accuracy into perspective, and warnings about what an accuracy hides."""

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
from toolkit.evaluation.intervals import wilson_interval

_PREMISE, _HYPOTHESIS = 0, 1
_SIGNIFICANCE_LEVEL = 0.001
_TFIDF_BASELINES = ("hypothesis_only", "premise_hypothesis")


def baseline_accuracies(
    train: Sequence[Example], evaluation: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """Measure the accuracy of simple classifiers on the evaluation rows.

    Args:
        train: The rows to fit on.
        evaluation: The rows to score.
        labels: The classes.

    Returns:
        The accuracy of each baseline:

        - `random`: a uniform guess (the expected value).
        - `majority`: always the majority class of the training rows.
        - `hypothesis_only`: logistic regression on TF-IDF of the hypothesis's unigrams and bigrams (Poliak et al. 2018,
          arXiv 1805.01042). Far above chance, it shows that labels can be guessed from how hypotheses are written.
        - `premise_hypothesis`: the same with features of the premise added. A linear classifier weighs the words of
          both sentences but cannot compare the sentences.
    """
    texts, gold = _text_columns(train), [row.label for row in train]
    eval_texts, eval_gold = _text_columns(evaluation), [row.label for row in evaluation]
    classifiers = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "hypothesis_only": _tfidf_classifier(_HYPOTHESIS),
        "premise_hypothesis": _tfidf_classifier(_PREMISE, _HYPOTHESIS),
    }
    return {"random": 1 / len(labels)} | {
        name: float(classifier.fit(texts, gold).score(eval_texts, eval_gold))
        for name, classifier in classifiers.items()
    }


def _text_columns(rows: Sequence[Example]) -> np.ndarray:
    # dtype=object: a fixed-width string array would pad every text to the length of the longest one.
    return np.array([[row.premise, row.hypothesis] for row in rows], dtype=object)


def _tfidf_classifier(*columns: int) -> Pipeline:
    # scikit-learn's default pattern drops one-letter words, but "a", "à" and "y" are words in French.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")  # noqa: S106
    # ColumnTransformer clones the vectorizer per column, so a word in the premise and the same word in the hypothesis
    # are two different features.
    features = ColumnTransformer([(str(column), vectorizer, column) for column in columns])
    return make_pipeline(features, LogisticRegression(max_iter=1000))


def data_warnings(baselines: Mapping[str, float], evaluation: Sequence[Example]) -> list[str]:
    """Return warnings about the data that anyone who reads the accuracy should know, usually none.

    The hypothesis-only accuracy counts as far above chance if always predicting the majority class of the evaluation
    rows would reach it in fewer than one in a thousand samples of rows (one-sided exact binomial test). Then neither
    luck nor class imbalance explains it. For 2,490 rows of three balanced labels, this is the case at 36.3% or more.

    Args:
        baselines: The result of `baseline_accuracies`, can be empty.
        evaluation: The evaluation rows.
    """
    if "hypothesis_only" not in baselines:
        return []
    rows, accuracy = len(evaluation), baselines["hypothesis_only"]
    majority_share = max(Counter(row.label for row in evaluation).values()) / rows
    correct = round(accuracy * rows)  # the accuracy is this count divided by the number of rows
    if binomtest(correct, rows, majority_share, alternative="greater").pvalue >= _SIGNIFICANCE_LEVEL:
        return []
    low, high = wilson_interval(correct, rows)
    return [
        f"A classifier that sees only the hypothesis is right on {accuracy:.1%} [{low:.1%}, {high:.1%}] of {rows:,} "
        f"rows. Always predicting the majority class is right on {majority_share:.1%}. Part of the model's accuracy "
        "may come from how hypotheses are written, not from comparing them with their premises."
    ]


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
        warnings.append("No answer is a label. Use constrained decoding, or train the model before free generation.")
    elif len(distinct_answers) == 1 and len({row.label for row in evaluation}) > 1:
        warnings.append(
            f"Every row gets the same answer ({next(iter(distinct_answers))}), so the model does not distinguish the "
            "labels. Train longer, or choose verbalizers made of words that the model knows."
        )
    correct = sum(label == row.label for label, row in zip(predicted, evaluation, strict=True))
    low, high = wilson_interval(correct, len(evaluation))
    # Compared with the upper bound: on few rows, a baseline that scores a little higher proves nothing.
    tfidf_accuracy = max((baselines[name] for name in _TFIDF_BASELINES if name in baselines), default=0.0)
    if tfidf_accuracy > high:
        warnings.append(
            f"A linear bag-of-words classifier is right on {tfidf_accuracy:.1%} of the rows, this model on only "
            f"{correct / len(evaluation):.1%} [{low:.1%}, {high:.1%}]."
        )
    return warnings
