"""Exercises on one sentence: copying, word order, polarity, roles and ranks. None of them asks about inference."""

import random
from itertools import pairwise

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.events import converse, people, social
from tools.tiny_llama_fr.french import elide, predicate, sentence
from tools.tiny_llama_fr.lexicon import COMPARABLE
from tools.tiny_llama_fr.vocabulary import Lexicon
from tools.tiny_llama_fr.word_forms import is_negated, vocabulary, words

# The text that the user's turn shows, and the answer.
Task = tuple[str, str]

YES, NO = "oui", "non"


def copying(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat a sentence."""
    return text, text


def word_list(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat words in random order, so that grammar does not help."""
    drawn = " ".join(draw(rng, vocabulary(lexicon), rng.randint(3, 16)))
    return drawn, drawn


def word_order(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Put words of the sentence into their original order."""
    present = list(dict.fromkeys(words(text)))
    if len(present) < 4:
        return None
    positions = sorted(draw(rng, range(len(present)), rng.randint(2, 4)))
    ordered = [present[position] for position in positions]
    return f"{text}\n{' '.join(draw(rng, ordered, len(ordered)))}", " ".join(ordered)


def polarity(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask whether the sentence is negated."""
    return text, "négative" if is_negated(text) else "positive"


def role(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask for the roles of two people in an active or passive sentence or with a converse verb."""
    event = rng.choice((social, converse))(rng, lexicon)
    first, second = draw(rng, people(lexicon), 2)
    return event.describe(first, second), elide(
        f"{event.role_names[0]} {first.text} {event.role_names[1]} {second.text}"
    )


def rank(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask for the order in which people acted, or for their ranking by a quality."""
    people = draw(rng, lexicon.names, rng.choice((2, 2, 3)))
    ascending = flip(rng)
    parts: list[str] = []
    if flip(rng):
        verb, link = rng.choice(lexicon.moving), "après" if ascending else "avant"
        for subject, standard in pairwise(people):
            parts += ["et"] if parts else []
            parts += [subject.text, predicate(verb, subject, "past"), link, standard.text]
        query, reverse = rng.choice((("premier", ascending), ("dernier", not ascending)))
    else:
        pair = list(rng.choice(COMPARABLE))
        rng.shuffle(pair)
        for subject, standard in pairwise(people):
            parts += ["et"] if parts else []
            parts += [subject.text, "est", "moins" if ascending else "plus", pair[0].agree(subject.feminine)]
            parts += ["que", standard.text]
        side = rng.randrange(2)
        query, reverse = pair[side].masculine, ascending != (side == 1)
    ordered = [person.text for person in people]
    return f"{sentence(*parts)}\n{query}", " ".join(ordered[::-1] if reverse else ordered)
