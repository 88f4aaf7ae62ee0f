"""Exercises on one sentence: copying, word order, polarity, roles, ranks. What follows from it is never asked."""

import random
from itertools import pairwise

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.events import converse, persons, social
from tools.tiny_llama_fr.french import elide, predicate, sentence
from tools.tiny_llama_fr.lexicon import COMPARABLE
from tools.tiny_llama_fr.vocabulary import Lexicon
from tools.tiny_llama_fr.word_forms import is_negated, vocabulary, words

Task = tuple[str, str]

YES, NO = "oui", "non"


def copying(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat a sentence."""
    return text, text


def word_list(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat words in random order, which no grammar helps to guess."""
    drawn = " ".join(draw(rng, vocabulary(lexicon), rng.randint(3, 16)))
    return drawn, drawn


def word_order(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Put words of the sentence into their order there."""
    present = list(dict.fromkeys(words(text)))
    if len(present) < 4:
        return None
    spots = sorted(draw(rng, range(len(present)), rng.randint(2, 4)))
    ordered = [present[spot] for spot in spots]
    return f"{text}\n{' '.join(draw(rng, ordered, len(ordered)))}", " ".join(ordered)


def polarity(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask if the sentence is negated."""
    return text, "négative" if is_negated(text) else "positive"


def role(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask who does it to whom: in the active, in the passive, and from both sides of a converse verb."""
    event = rng.choice((social, converse))(rng, lexicon)
    first, second = draw(rng, persons(lexicon), 2)
    return event.tell(first, second), elide(f"{event.roles[0]} {first.text} {event.roles[1]} {second.text}")


def rank(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask in which order people came, or how they rank by a quality."""
    people = draw(rng, lexicon.names, rng.choice((2, 2, 3)))
    ascending = flip(rng)
    parts: list[str] = []
    if flip(rng):
        verb, link = rng.choice(lexicon.moving), "après" if ascending else "avant"
        for one, two in pairwise(people):
            parts += ["et"] if parts else []
            parts += [one.text, predicate(verb, one, "past"), link, two.text]
        asked, reverse = rng.choice((("premier", ascending), ("dernier", not ascending)))
    else:
        pair = list(rng.choice(COMPARABLE))
        rng.shuffle(pair)
        for one, two in pairwise(people):
            parts += ["et"] if parts else []
            parts += [one.text, "est", "moins" if ascending else "plus", pair[0].agree(one.feminine), "que", two.text]
        side = rng.randrange(2)
        asked, reverse = pair[side].masculine, ascending != (side == 1)
    ordered = [person.text for person in people]
    return f"{sentence(*parts)}\n{asked}", " ".join(ordered[::-1] if reverse else ordered)
