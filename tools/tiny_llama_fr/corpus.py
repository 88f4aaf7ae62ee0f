"""The pre-training corpus: unlabeled French sentences, facts about words, and exercises on words.

No document is an inference pair: an exercise asks about words, never whether one sentence follows from another. No line
of a document is a sentence of the inference data, in any split, including train.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from tools.tiny_llama_fr import comparisons, exercises
from tools.tiny_llama_fr import exercises_words as word_exercises
from tools.tiny_llama_fr.candidates import LABELS
from tools.tiny_llama_fr.documents import Document
from tools.tiny_llama_fr.lexicon import HELD_OUT, LEXICON
from tools.tiny_llama_fr.nli_fr import DEFAULT_SEED, SPLITS, generate
from tools.tiny_llama_fr.phenomena import PHENOMENA
from tools.tiny_llama_fr.vocabulary import Lexicon

# The share of documents with words of test_lexical. That split tests words unseen in fine-tuning, not in pre-training.
_HELD_OUT_SHARE = 0.4

Drawn = TypeVar("Drawn")
# A function of a lexicon and two of its sentences. It returns None if the sentences are unsuitable.
Exercise = Callable[[random.Random, Lexicon, str, str], Drawn]

Weights = tuple[int, int, int, int]
# Exercises on two lines, with the frequency of each one in each stage of training.
COMPARISONS: dict[str, tuple[Exercise[Document], Weights]] = {
    "listes": (comparisons.word_lists, (7, 3, 2, 3)),
    "phrases": (comparisons.sentences, (38, 0, 0, 0)),
    "phrases signées": (comparisons.sentences_with_polarity, (0, 32, 36, 38)),
    "rôles": (comparisons.roles, (10, 0, 0, 0)),
    "rôles pas à pas": (comparisons.roles_by_steps, (0, 26, 0, 0)),
    "rôles d'un coup": (comparisons.roles_at_once, (0, 0, 45, 40)),
    "nombres bornés": (comparisons.bounded_numbers, (0, 6, 12, 6)),
    "propriété": (comparisons.single_property, (12, 6, 5, 4)),
}
# Exercises that the system's turn names and the assistant's turn answers.
ANSWERED: dict[str, tuple[Exercise[exercises.Task | None], Weights]] = {
    "copie": (exercises.copying, (2, 1, 1, 1)),
    "mots": (exercises.word_list, (2, 1, 1, 1)),
    "ordre": (exercises.word_order, (1, 0, 0, 0)),
    "signe": (exercises.polarity, (1, 1, 1, 1)),
    "rôle": (exercises.role, (4, 4, 3, 2)),
    "rang": (exercises.rank, (6, 6, 5, 3)),
    "sorte": (word_exercises.kinds, (5, 6, 4, 9)),
    "forme": (word_exercises.dictionary_forms, (1, 1, 1, 1)),
    "opposé": (word_exercises.opposites, (2, 2, 2, 2)),
    "nombre": (word_exercises.comparisons, (2, 1, 2, 1)),
    "borne": (word_exercises.bounds, (5, 5, 4, 2)),
    "suite": (word_exercises.counting, (1, 0, 0, 0)),
}
_PLAIN, _LABEL_WORDS = (4, 3, 3, 2), (1, 2, 2, 2)
EXERCISES = (*COMPARISONS, *ANSWERED)
# Until this step only these exercises are drawn. The ability to copy a word from its context emerges abruptly, and they
# force it to emerge. A model that has first learned other shortcuts hardly ever acquires it.
_FIRST_STEPS = 250
_FIRST = {"listes": 2, "mots": 1, "phrases": 1}


@lru_cache(maxsize=1)
def forbidden_sentences() -> frozenset[str]:
    """Return every premise and hypothesis of the inference data."""
    rows = [row for split in SPLITS for row in generate(split, DEFAULT_SEED)]
    return frozenset(text for row in rows for text in (row["premise"], row["hypothesis"]))


def draw_document(rng: random.Random, step: int = _FIRST_STEPS, stage: int = 0) -> Document:
    """Draw a document for a training step and its stage (0 to 3) that contains no sentence of the inference data."""
    weights = _FIRST if step < _FIRST_STEPS else _WEIGHTS[stage]
    return _draw_permitted(lambda: _draw(rng, rng.choices(list(weights), list(weights.values()))[0]))


def draw_exercise(rng: random.Random, name: str) -> Document:
    """Draw a document of one exercise that contains no sentence of the inference data."""
    return _draw_permitted(lambda: _draw(rng, name))


def _draw_permitted(make: Callable[[], Document | None]) -> Document:
    while True:
        document = make()
        if document and forbidden_sentences().isdisjoint(document.lines):
            return document


def draw_sentences(rng: random.Random, lexicon: Lexicon) -> tuple[str, str]:
    """Draw two sentences of one phenomenon about the same things, whatever their relation."""
    while True:
        candidate = rng.choice(tuple(PHENOMENA.values()))(rng, lexicon)
        first, second = (option.render() for option in rng.sample(candidate.options, 2))
        if first != second:
            return (candidate.premise if rng.random() < 0.3 else first), second


def _draw(rng: random.Random, name: str) -> Document | None:
    lexicon = HELD_OUT if rng.random() < _HELD_OUT_SHARE else LEXICON
    if name == "étiquettes":
        word = rng.choice(LABELS)
        return Document(word, word, system=rng.choice(("relation", "répète")))
    pair = draw_sentences(rng, lexicon)
    if name == "texte":
        facts = " ".join(word_exercises.fact(rng, lexicon) for _ in range(3))
        return Document("", facts if rng.random() < 0.5 else pair[0])
    if name in COMPARISONS:
        return COMPARISONS[name][0](rng, lexicon, *pair)
    task = ANSWERED[name][0](rng, lexicon, *pair)
    return Document(*task, system=name) if task else None


_WEIGHTS = [
    {name: weights[stage] for name, (_, weights) in {**COMPARISONS, **ANSWERED}.items()}
    | {"texte": _PLAIN[stage], "étiquettes": _LABEL_WORDS[stage]}
    for stage in range(len(_PLAIN))
]
