"""What one reaches without the model: the floor that an accuracy is read against."""

from collections.abc import Sequence

from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from toolkit.task import Example


def baseline_accuracies(
    train: Sequence[Example], evaluation: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """Accuracies on the evaluation rows of classifiers that know the training rows at most.

    Returns:
        `random`: expected of a uniform guess; `majority`: the commonest training label; `hypothesis_only`: TF-IDF of
        words and pairs of words and logistic regression, without the premise (Poliak et al. 2018, arXiv 1805.01042) -
        far above chance, the labels can be guessed from how hypotheses are written.
    """
    texts, gold = [row.hypothesis for row in train], [row.label for row in train]
    eval_texts, eval_gold = [row.hypothesis for row in evaluation], [row.label for row in evaluation]
    majority = DummyClassifier(strategy="most_frequent").fit(texts, gold)
    # Unlike scikit-learn's own pattern, words of one letter count: "a", "à", "y" are words in French.
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")  # noqa: S106
    hypothesis_only = make_pipeline(words, LogisticRegression(max_iter=1000))
    return {
        "random": 1 / len(labels),
        "majority": float(majority.score(eval_texts, eval_gold)),
        "hypothesis_only": float(hypothesis_only.fit(texts, gold).score(eval_texts, eval_gold)),
    }
