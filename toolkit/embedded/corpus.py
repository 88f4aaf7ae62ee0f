"""The pre-training corpus: unlabelled French sentences, facts about words, and exercises on words.

No document is an inference pair: an exercise asks for a word, a copy or a number, never for how one sentence relates to
another. No line of any document is a sentence of dev, test or test_lexical.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from toolkit.embedded import exercises as sentences
from toolkit.embedded import exercises_words as by_word
from toolkit.embedded.candidates import LABELS
from toolkit.embedded.exercises import Task
from toolkit.embedded.lexicon import HELD_OUT, LEXICON
from toolkit.embedded.nli_fr import DEFAULT_SEED, generate
from toolkit.embedded.phenomena import PHENOMENA
from toolkit.embedded.vocabulary import Lexicon

EVALUATION_SPLITS = ("dev", "test", "test_lexical")
# How often the words of test_lexical occur: it asks for words unseen in fine-tuning, not in pre-training.
_HELD_OUT_SHARE = 0.4


class Document(NamedTuple):
    """Text to pre-train on: a chat of system, user and assistant, or one plain text in `answer` alone.

    tagged: every second word of the answer is a verdict on the word before it, which itself cannot be foreseen.
    """

    system: str
    user: str
    answer: str
    tagged: bool = False

    @property
    def lines(self) -> list[str]:
        """Every line of its texts."""
        return f"{self.system}\n{self.user}\n{self.answer}".split("\n")


Exercise = Callable[[random.Random, Lexicon, str, str], Task | None]

# Exercises, and how often each is drawn in the first and in the second stage of training.
EXERCISES: dict[str, tuple[Exercise, tuple[int, int]]] = {
    "copie": (sentences.copying, (2, 2)),
    "mots": (sentences.word_list, (2, 2)),
    "liste": (sentences.list_membership, (3, 1)),
    "mot": (sentences.membership, (3, 1)),
    "aligne": (sentences.alignment, (20, 8)),
    "paire": (sentences.pair_alignment, (6, 4)),
    "compare": (sentences.comparison, (0, 30)),
    "ordre": (sentences.word_order, (1, 1)),
    "signe": (sentences.polarity, (1, 1)),
    "rôle": (sentences.role, (6, 6)),
    "rang": (sentences.rank, (6, 7)),
    "sorte": (by_word.kinds, (4, 4)),
    "forme": (by_word.dictionary_forms, (2, 2)),
    "opposé": (by_word.opposites, (2, 4)),
    "nombre": (by_word.comparisons, (2, 3)),
    "borne": (by_word.bounds, (3, 4)),
    "suite": (by_word.counting, (1, 1)),
}
_PLAIN, _LABEL_WORDS = 3, 1
_TAGGED = frozenset({"liste", "mot", "aligne"})
# In the first stage, up to which step only these are drawn. Finding a word again is a sudden insight: a new model has
# it within two hundred steps of nothing else, one that has learned to do without it hardly ever. Copying builds on it.
CURRICULUM: tuple[tuple[int, tuple[str, ...]], ...] = (
    (250, ("liste",)),
    (400, ("liste", "mots", "mot", "copie", "aligne")),
)


@lru_cache(maxsize=1)
def forbidden_sentences() -> frozenset[str]:
    """Every premise and hypothesis of the evaluation splits."""
    rows = [row for split in EVALUATION_SPLITS for row in generate(split, DEFAULT_SEED)]
    return frozenset(text for row in rows for text in (row["premise"], row["hypothesis"]))


def draw_document(rng: random.Random, step: int | None = None, stage: int = 0) -> Document:
    """A document of the corpus, without any sentence of the evaluation splits.

    Args:
        step: of the stage, for its curriculum; None draws from the whole corpus.
        stage: 0 or 1, which weighs the exercises.
    """
    early = next((names for until, names in CURRICULUM if stage == 0 and step is not None and step < until), None)
    while True:
        document = _exercise(rng, rng.choice(early)) if early else _draw(rng, stage)
        if document and forbidden_sentences().isdisjoint(document.lines):
            return document


def draw_exercise(rng: random.Random, name: str) -> Document:
    """A document of one exercise, without any sentence of the evaluation splits."""
    while True:
        document = _exercise(rng, name)
        if document and forbidden_sentences().isdisjoint(document.lines):
            return document


def draw_sentences(rng: random.Random, lexicon: Lexicon) -> tuple[str, str]:
    """Two sentences of one phenomenon about the same things; how they relate is not looked at."""
    while True:
        candidate = rng.choice(tuple(PHENOMENA.values()))(rng, lexicon)
        first, second = (option.render() for option in rng.sample(candidate.options, 2))
        if first != second:
            return (candidate.premise if rng.random() < 0.3 else first), second


def _draw(rng: random.Random, stage: int = 0) -> Document | None:
    kinds = [*EXERCISES, "plain", "labels"]
    kind = rng.choices(kinds, [*(weights[stage] for _, weights in EXERCISES.values()), _PLAIN, _LABEL_WORDS])[0]
    if kind == "plain":
        return _plain(rng)
    if kind == "labels":
        word = rng.choice(LABELS)
        return Document("relation" if rng.random() < 0.5 else "répète", word, word)
    return _exercise(rng, kind)


def _exercise(rng: random.Random, name: str) -> Document | None:
    lexicon = _lexicon(rng)
    task = EXERCISES[name][0](rng, lexicon, *draw_sentences(rng, lexicon))
    return Document(name, *task, tagged=name in _TAGGED) if task else None


def _plain(rng: random.Random) -> Document:
    lexicon = _lexicon(rng)
    if rng.random() < 0.5:
        return Document("", "", " ".join(by_word.fact(rng, lexicon) for _ in range(3)))
    return Document("", "", draw_sentences(rng, lexicon)[0])


def _lexicon(rng: random.Random) -> Lexicon:
    return HELD_OUT if rng.random() < _HELD_OUT_SHARE else LEXICON
