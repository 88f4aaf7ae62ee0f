"""Events between people that can be described from either side, the material of the exercises on roles."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tools.tiny_llama_fr.candidates import flip
from tools.tiny_llama_fr.french import ETRE, Phrase, definite, indefinite, passive, predicate, sentence
from tools.tiny_llama_fr.lexicon import COMPARABLE
from tools.tiny_llama_fr.phenomena.common import tense_of
from tools.tiny_llama_fr.vocabulary import Lexicon


class Event(NamedTuple):
    """An event that has many descriptions: each call draws a side and a polarity.

    Attributes:
        describe: Describes the event with two people. The first one acts, gives, comes earlier or ranks higher.
        role_names: The names of the two roles.
        describe_chain: Describes three people, each related to the next. None if the relation is not transitive.
    """

    describe: Callable[[Phrase, Phrase], str]
    role_names: tuple[str, str]
    describe_chain: Callable[[Phrase, Phrase, Phrase], str] | None = None


def people(lexicon: Lexicon) -> list[Phrase]:
    """Return all people that can take part in an event."""
    return [*lexicon.names, *(definite(noun) for noun in lexicon.roles)]


def social(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw an action of one person on another, described in the active or passive voice."""
    verb, tense = rng.choice(lexicon.social), tense_of(rng)

    def describe(agent: Phrase, patient: Phrase) -> str:
        negated = flip(rng)
        if flip(rng):
            return sentence(agent.text, predicate(verb, agent, tense, negated), patient.text)
        return sentence(patient.text, passive(verb, patient, tense, negated), "par", agent.text)

    return Event(describe, ("agent", "patient"))


def converse(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw an event with a verb for either side, such as prêter and emprunter."""
    entry, tense = rng.choice(lexicon.converses), tense_of(rng)
    goods = indefinite(rng.choice(lexicon.concepts).noun).text if entry.has_thing else ""

    def describe(giver: Phrase, taker: Phrase) -> str:
        negated = rng.random() < 0.3
        if flip(rng):
            return sentence(giver.text, predicate(entry.verb, giver, tense, negated), goods, entry.link, taker.text)
        return sentence(taker.text, predicate(entry.converse, taker, tense, negated), goods, entry.back, giver.text)

    # With the verb être on both sides, only the prepositions (devant, derrière) name the roles.
    has_one_verb = entry.verb == entry.converse
    return Event(describe, (entry.link, entry.back) if has_one_verb else (entry.verb.singular, entry.converse.singular))


def before(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw an action that one person performs earlier than another."""
    verb = rng.choice(lexicon.moving)

    def describe(first: Phrase, second: Phrase) -> str:
        negated = rng.random() < 0.3
        if flip(rng):
            return sentence(first.text, predicate(verb, first, "past", negated), "avant", second.text)
        return sentence(second.text, predicate(verb, second, "past", negated), "après", first.text)

    def describe_chain(first: Phrase, middle: Phrase, last: Phrase) -> str:
        sides = [("après", first.text), ("avant", last.text)]
        rng.shuffle(sides)
        return sentence(middle.text, predicate(verb, middle, "past"), *sides[0], "et", *sides[1])

    return Event(describe, ("premier", "dernier"), describe_chain)


def compared(rng: random.Random, lexicon: Lexicon) -> Event:
    """Draw a comparison of two people by a quality or its opposite."""
    pair = rng.choice(COMPARABLE)

    def clause(greater: Phrase, lesser: Phrase, side: int, upwards: bool, negated: bool) -> list[str]:
        subject, standard = (greater, lesser) if upwards == (side == 0) else (lesser, greater)
        verb, comparator = predicate(ETRE, subject, negated=negated), "plus" if upwards else "moins"
        return [subject.text, verb, comparator, pair[side].agree(subject.feminine), "que", standard.text]

    def describe(greater: Phrase, lesser: Phrase) -> str:
        return sentence(*clause(greater, lesser, rng.randrange(2), flip(rng), rng.random() < 0.3))

    def describe_chain(first: Phrase, middle: Phrase, last: Phrase) -> str:
        side, upwards = rng.randrange(2), flip(rng)
        clauses = [clause(*people, side, upwards, False) for people in ((first, middle), (middle, last))]
        # The second clause must start with the middle person: "C est moins grand que B et B est moins grand que A".
        if upwards != (side == 0):
            clauses.reverse()
        return sentence(*clauses[0], "et", *clauses[1])

    return Event(describe, (pair[0].masculine, pair[1].masculine), describe_chain)


EVENTS: tuple[Callable[[random.Random, Lexicon], Event], ...] = (social, converse, before, compared)
