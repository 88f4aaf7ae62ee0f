"""What one reaches without the model: the floor that an accuracy is read against, and what it says about the data."""

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
    """Accuracies on the evaluation rows of classifiers that know the training rows at most.

    Returns:
        `random`: expected of a uniform guess; `majority`: the commonest training label; `hypothesis_only`: TF-IDF of
        words and pairs of words and logistic regression, without the premise (Poliak et al. 2018, arXiv 1805.01042) -
        far above chance, the labels can be guessed from how hypotheses are written; `premise_hypothesis`: the same
        with the premise's words beside the hypothesis's, which a linear classifier cannot compare.
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
    return np.array([[row.premise, row.hypothesis] for row in rows], dtype=object)


def _tfidf_classifier(*columns: int) -> Pipeline:
    # Unlike scikit-learn's own pattern, words of one letter count: "a", "à", "y" are words in French.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")  # noqa: S106
    features = ColumnTransformer([(str(column), vectorizer, column) for column in columns])
    return make_pipeline(features, LogisticRegression(max_iter=1000))


def data_warnings(baselines: Mapping[str, float], evaluation: Sequence[Example]) -> list[str]:
    """Sentences about the data that a reader of the accuracy has to know; usually none.

    A hypothesis-only score is far above chance when a classifier that is right as often as the commonest label of the
    evaluation rows is common reaches it in less than one of a thousand draws of rows (one-sided exact binomial test):
    then neither luck nor imbalance explains it. On 2,490 rows of three equal labels that is from 36.3 % on.
    """
    if "hypothesis_only" not in baselines:
        return []
    rows, accuracy = len(evaluation), baselines["hypothesis_only"]
    majority_share = max(Counter(row.label for row in evaluation).values()) / rows
    correct = round(accuracy * rows)
    if binomtest(correct, rows, majority_share, alternative="greater").pvalue >= _SIGNIFICANCE_LEVEL:
        return []
    low, high = wilson_interval(correct, rows)
    return [
        f"The hypothesis alone, without its premise, is classified right in {accuracy:.1%} [{low:.1%}, {high:.1%}] of "
        f"{rows:,} rows, where always saying the commonest label is in {majority_share:.1%}: part of the accuracy may "
        "come from how hypotheses are written, not from comparing them with premises."
    ]


def answer_warnings(
    predicted: Sequence[str | None], evaluation: Sequence[Example], baselines: Mapping[str, float]
) -> list[str]:
    """Sentences about answers that an accuracy hides; usually none.

    Args:
        predicted: the decoded label of each row.
        evaluation: the rows.
        baselines: see `baseline_accuracies`; may be empty.
    """
    distinct_answers, warnings = set(predicted), []
    if len(distinct_answers) == 1 and len({row.label for row in evaluation}) > 1:
        warnings.append(
            f"Every row is answered alike ({next(iter(distinct_answers))}): the model does not tell the labels apart. "
            "Train longer, or give labels verbalizers whose words the model knows."
        )
    correct = sum(label == row.label for label, row in zip(predicted, evaluation, strict=True))
    low, high = wilson_interval(correct, len(evaluation))
    tfidf_accuracy = max((baselines[name] for name in _TFIDF_BASELINES if name in baselines), default=0.0)
    if tfidf_accuracy > high:
        warnings.append(
            f"A linear classifier of words alone is right in {tfidf_accuracy:.1%} of the rows, this model in "
            f"{correct / len(evaluation):.1%} [{low:.1%}, {high:.1%}]."
        )
    return warnings
