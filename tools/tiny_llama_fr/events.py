"""Events between persons that can be told from either side: what the exercises on roles are made of."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tools.tiny_llama_fr.candidates import flip
from tools.tiny_llama_fr.french import ETRE, Phrase, definite, indefinite, passive, predicate, sentence
from tools.tiny_llama_fr.lexicon import COMPARABLE
from tools.tiny_llama_fr.phenomena.common import tense_of
from tools.tiny_llama_fr.vocabulary import Lexicon


class Event(NamedTuple):
    """An event that can be told in many ways: side and polarity are drawn again each time.

    tell: of two persons, first who acts, gives, comes earlier or is more.
    roles: what the two are called.
    rank: of three persons, each related to the next; None where that means nothing.
    """

    tell: Callable[[Phrase, Phrase], str]
    roles: tuple[str, str]
    rank: Callable[[Phrase, Phrase, Phrase], str] | None = None


def persons(lexicon: Lexicon) -> list[Phrase]:
    """Return everybody whom an event can be about."""
    return [*lexicon.names, *(definite(noun) for noun in lexicon.roles)]


def social(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw something that one person does to another, active or passive."""
    verb, tense = rng.choice(lexicon.social), tense_of(rng)

    def tell(agent: Phrase, patient: Phrase) -> str:
        negated = flip(rng)
        if flip(rng):
            return sentence(agent.text, predicate(verb, agent, tense, negated), patient.text)
        return sentence(patient.text, passive(verb, patient, tense, negated), "par", agent.text)

    return Event(tell, ("agent", "patient"))


def converse(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw something with a verb for either side, such as prêter and emprunter."""
    entry, tense = rng.choice(lexicon.converses), tense_of(rng)
    goods = indefinite(rng.choice(lexicon.concepts).noun).text if entry.has_thing else ""

    def tell(giver: Phrase, taker: Phrase) -> str:
        negated = rng.random() < 0.3
        if flip(rng):
            return sentence(giver.text, predicate(entry.verb, giver, tense, negated), goods, entry.link, taker.text)
        return sentence(taker.text, predicate(entry.converse, taker, tense, negated), goods, entry.back, giver.text)

    same = entry.verb == entry.converse
    return Event(tell, (entry.link, entry.back) if same else (entry.verb.singular, entry.converse.singular))


def before(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw something that one person does earlier than another."""
    verb = rng.choice(lexicon.moving)

    def tell(first: Phrase, second: Phrase) -> str:
        negated = rng.random() < 0.3
        if flip(rng):
            return sentence(first.text, predicate(verb, first, "past", negated), "avant", second.text)
        return sentence(second.text, predicate(verb, second, "past", negated), "après", first.text)

    def rank(first: Phrase, middle: Phrase, last: Phrase) -> str:
        sides = [("après", first.text), ("avant", last.text)]
        rng.shuffle(sides)
        return sentence(middle.text, predicate(verb, middle, "past"), *sides[0], "et", *sides[1])

    return Event(tell, ("premier", "dernier"), rank)


def compared(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw a comparison: more of a quality, or less of its opposite."""
    pair = rng.choice(COMPARABLE)

    def clause(greater: Phrase, lesser: Phrase, side: int, upwards: bool, negated: bool) -> list[str]:
        subject, other = (greater, lesser) if upwards == (side == 0) else (lesser, greater)
        verb, comparator = predicate(ETRE, subject, negated=negated), "plus" if upwards else "moins"
        return [subject.text, verb, comparator, pair[side].agree(subject.feminine), "que", other.text]

    def tell(greater: Phrase, lesser: Phrase) -> str:
        return sentence(*clause(greater, lesser, rng.randrange(2), flip(rng), rng.random() < 0.3))

    def rank(first: Phrase, middle: Phrase, last: Phrase) -> str:
        side, upwards = rng.randrange(2), flip(rng)
        steps = [clause(*step, side, upwards, False) for step in ((first, middle), (middle, last))]
        if upwards != (side == 0):
            steps.reverse()
        return sentence(*steps[0], "et", *steps[1])

    return Event(tell, (pair[0].masculine, pair[1].masculine), rank)


EVENTS: tuple[Callable[[random.Random, Lexicon], Event], ...] = (social, converse, before, compared)
