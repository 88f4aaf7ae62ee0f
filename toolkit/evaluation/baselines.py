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

from toolkit.evaluation.intervals import wilson_interval
from toolkit.run_folder import RunFolder, read_object
from toolkit.task import Example

_PREMISE, _HYPOTHESIS = 0, 1
_LUCK = 0.001


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
    texts, gold = _texts(train), [row.label for row in train]
    eval_texts, eval_gold = _texts(evaluation), [row.label for row in evaluation]
    classifiers = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "hypothesis_only": _words_classifier(_HYPOTHESIS),
        "premise_hypothesis": _words_classifier(_PREMISE, _HYPOTHESIS),
    }
    return {"random": 1 / len(labels)} | {
        name: float(classifier.fit(texts, gold).score(eval_texts, eval_gold))
        for name, classifier in classifiers.items()
    }


def _texts(rows: Sequence[Example]) -> np.ndarray:
    return np.array([[row.premise, row.hypothesis] for row in rows], dtype=object)


def _words_classifier(*columns: int) -> Pipeline:
    # Unlike scikit-learn's own pattern, words of one letter count: "a", "à", "y" are words in French.
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")  # noqa: S106
    features = ColumnTransformer([(str(column), words, column) for column in columns])
    return make_pipeline(features, LogisticRegression(max_iter=1000))


def base_zero_shot(run: RunFolder, data_fingerprint: str) -> dict[str, float]:
    """`base_zero_shot`: the accuracy of the run's base model on the same rows, where it was evaluated; else nothing.

    Args:
        run: its eval/ is looked through for evaluations of the base: constrained, no shots, the run's own prompt.
        data_fingerprint: of the rows (`data.checks.fingerprint`).
    """
    for path in sorted(run.eval.glob("base*/metrics.json")):
        found = read_object(path)
        rows = found.get("data")
        is_same = isinstance(rows, dict) and rows.get("fingerprint") == data_fingerprint
        changed = [key for key in found.get("overrides", {}) if not key.startswith(("data.eval.", "evaluation."))]
        if (
            is_same
            and found.get("model") == "base"
            and found.get("mode") == "constrained"
            and not found.get("shots")
            and not changed
        ):
            return {"base_zero_shot": found["accuracy"]}
    return {}


def data_warnings(baselines: Mapping[str, float], evaluation: Sequence[Example]) -> list[str]:
    """Sentences about the data that a reader of the accuracy has to know; usually none.

    A hypothesis-only score is far above chance when a classifier that is right as often as the commonest label of the
    evaluation rows is common reaches it in less than one of a thousand draws of rows (one-sided exact binomial test):
    then neither luck nor imbalance explains it. On 2,490 rows of three equal labels that is from 36.3 % on.
    """
    if "hypothesis_only" not in baselines:
        return []
    rows, score = len(evaluation), baselines["hypothesis_only"]
    chance = max(Counter(row.label for row in evaluation).values()) / rows
    correct = round(score * rows)
    if binomtest(correct, rows, chance, alternative="greater").pvalue >= _LUCK:
        return []
    low, high = wilson_interval(correct, rows)
    return [
        f"The hypothesis alone, without its premise, is classified right in {score:.1%} [{low:.1%}, {high:.1%}] of "
        f"{rows:,} rows, where always saying the commonest label is in {chance:.1%}: part of the accuracy may come "
        "from how hypotheses are written, not from comparing them with premises."
    ]
