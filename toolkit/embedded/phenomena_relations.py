"""Phenomena about who stands where to whom: antonyms, converses, voice, order in time, comparison, coordination."""

import random
from functools import partial
from itertools import permutations, product

from toolkit.embedded.candidates import NEUTRAL, Candidate, Option, Situations, draw, flip, polarity_label, relation
from toolkit.embedded.french import (
    ETRE,
    Adjective,
    Phrase,
    definite,
    direct_object,
    join,
    passive,
    predicate,
    sentence,
)
from toolkit.embedded.lexicon import COMPARABLE, PERSON_OPPOSITES, THING_OPPOSITES, Lexicon
from toolkit.embedded.phenomena import place_phrase, tense_of

_BOTH = (False, True)
# An adjective pair on a scale: very first, first, neither, second, very second.
_SCALE = frozenset({-2, -1, 0, 1, 2})
_POLES = frozenset({-1, 1})
_RANKINGS = tuple(product(range(3), repeat=3))


def antonyms(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Opposites: of ouvert and fermé one always holds; between grand and petit there is a middle ground."""
    if flip(rng):
        subject, pairs = definite(rng.choice(lexicon.roles)), PERSON_OPPOSITES
        subject = rng.choice((subject, rng.choice(lexicon.names)))
    else:
        thing, owner = definite(rng.choice(lexicon.openables)), rng.choice(lexicon.names)
        subject, pairs = Phrase(f"{thing.text} de {owner.text}", thing.feminine), THING_OPPOSITES
    pair, other = draw(rng, pairs, 2)
    forms = [(side, very, negative) for side in (1, -1) for very, negative in ((0, 0), (1, 0), (0, 1))]
    side, very, negated = rng.choice(forms)
    very = very and not pair[2]

    def render(opposites: tuple[Adjective, Adjective, bool], side: int, very: bool, negative: bool) -> str:
        adjective = opposites[0 if side > 0 else 1].agree(subject.feminine)
        return sentence(
            subject.text, predicate(ETRE, subject, negated=bool(negative)), "très" if very else "", adjective
        )

    premise = _degrees(pair[2], side, very, negated)
    options = []
    for opposites, (to, much, negative) in product((pair, other), forms):
        if much and opposites[2]:
            continue
        follows = relation(premise, _degrees(opposites[2], to, much, negative)) if opposites is pair else NEUTRAL
        signature = (bool(negative), bool(much), opposites[2])
        options.append(Option(follows, signature, partial(render, opposites, to, much, negative)))
    return Candidate(render(pair, side, very, negated), tuple(options))


def _degrees(complementary: bool, side: int, very: bool, negated: bool) -> Situations:
    if complementary:
        return _POLES - {side} if negated else frozenset({side})
    true = frozenset({side * 2} if very else {side, side * 2})
    return _SCALE - true if negated else true


def converses(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """ "Paul prête un livre à Léa" is "Léa emprunte un livre à Paul"; the roles make the difference."""
    entry = rng.choice(lexicon.converses)
    first, second, third = draw(rng, lexicon.names, 3)
    tense = "present" if entry.asymmetric else tense_of(rng)
    thing, other, _ = (concept.noun for concept in _unrelated(rng, lexicon))

    def render(giver: Phrase, taker: Phrase, noun: object, reverse: bool, negative: bool) -> str:
        subject, partner = (taker, giver) if reverse else (giver, taker)
        verb, link = (entry.converse, entry.back) if reverse else (entry.verb, entry.link)
        goods = direct_object(noun, negative) if entry.has_thing else ""
        return sentence(subject.text, predicate(verb, subject, tense, negative), goods, link, partner.text)

    reverse, negated = flip(rng), rng.random() < 0.4
    premise_event = (first, second, thing)
    options = []
    events = [premise_event, (second, first, thing), (first, third, thing), (third, second, thing)]
    events += [(first, second, other)] if entry.has_thing else []
    for event, backwards, negative in product(events, _BOTH, _BOTH):
        label = NEUTRAL
        if event == premise_event:
            label = polarity_label(negative != negated)
        elif event[:2] == (second, first) and entry.asymmetric and not negated:
            label = polarity_label(not negative)
        signature = (entry.verb, entry.link, backwards, negative)
        options.append(Option(label, signature, partial(render, *event, backwards, negative)))
    return Candidate(render(first, second, thing, reverse, negated), tuple(options))


def voice(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Active and passive say the same; exchanging agent and patient does not."""
    people = [definite(noun) for noun in draw(rng, lexicon.roles, 2)]
    if flip(rng):
        people[rng.randrange(2)] = rng.choice(lexicon.names)
    agent, patient = people
    verb, tense = rng.choice(lexicon.social), tense_of(rng)

    def render(doer: Phrase, undergoer: Phrase, form: str, negative: bool) -> str:
        if form == "active":
            return sentence(doer.text, predicate(verb, doer, tense, negative), undergoer.text)
        by = f"par {doer.text}" if form == "passive" else ""
        return sentence(undergoer.text, passive(verb, undergoer, tense, negative), by)

    form, negated = rng.choice(("active", "active", "passive", "passive", "short")), flip(rng)
    options = []
    for swapped, to, negative in product(_BOTH, ("active", "passive", "short"), _BOTH):
        roles = (patient, agent) if swapped else (agent, patient)
        narrower, wider = form == "short" and to != "short", to == "short" and form != "short"
        follows = not swapped and not (wider if negated else narrower)
        label = polarity_label(negative != negated) if follows else NEUTRAL
        options.append(Option(label, (to, negative), partial(render, *roles, to, negative)))
    return Candidate(render(agent, patient, form, negated), tuple(options))


def temporal_order(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Avant and après, and their chains: earlier ranks first, equal ranks at the same time."""
    people = draw(rng, lexicon.names, 3)
    verb = rng.choice(lexicon.moving)

    def render(first: int, second: int, after: bool, negative: bool) -> str:
        group = predicate(verb, people[first], "past", negative)
        return sentence(people[first].text, group, "après" if after else "avant", people[second].text)

    shape, after = rng.choice(("single", "single", "negated", "chain", "pair")), flip(rng)
    premise = _earlier(0, 1, after)
    if shape == "chain":
        premise &= _earlier(0, 2, not after)
        group, words = predicate(verb, people[0], "past"), ("après", "avant") if after else ("avant", "après")
        text = sentence(people[0].text, group, words[0], people[1].text, "et", words[1], people[2].text)
    elif shape == "pair":
        premise &= _earlier(2, 1, after)
        both = join((people[0], people[2]), "et")
        text = sentence(both.text, predicate(verb, both, "past"), "après" if after else "avant", people[1].text)
    else:
        negated = shape == "negated"
        premise = _RANKS - premise if negated else premise
        text = render(0, 1, after, negated)

    options = []
    for (first, second), later, negative in product(permutations(range(3), 2), _BOTH, _BOTH):
        meaning = _earlier(first, second, later)
        label = relation(premise, _RANKS - meaning if negative else meaning)
        options.append(Option(label, (later, negative), partial(render, first, second, later, negative)))
    return Candidate(text, tuple(options))


_RANKS: Situations = frozenset(_RANKINGS)


def _earlier(first: int, second: int, reverse: bool = False) -> Situations:
    low, high = (second, first) if reverse else (first, second)
    return frozenset(ranks for ranks in _RANKINGS if ranks[low] < ranks[high])


def comparatives(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Plus, moins and aussi, with an adjective or its opposite, between three people."""
    people = draw(rng, lexicon.names, 3)
    pair, unrelated = draw(rng, COMPARABLE, 2)

    def clause(first: int, word: str, adjective: Adjective, second: int, negative: bool) -> tuple[str, ...]:
        subject = people[first]
        form = adjective.agree(subject.feminine)
        return predicate(ETRE, subject, negated=negative), word, form, "que", people[second].text

    def render(first: int, word: str, adjective: Adjective, second: int, negative: bool) -> str:
        return sentence(people[first].text, *clause(first, word, adjective, second, negative))

    words = ("plus", "moins", "aussi")
    word, side, negated = rng.choice(("plus", "moins", "plus", "moins", "aussi")), rng.randrange(2), rng.random() < 0.3
    negated = negated and word != "aussi"
    premise = _compared(0, 1, word, side)
    premise = _RANKS - premise if negated else premise
    text = render(0, word, pair[side], 1, negated)
    if not negated and flip(rng):
        premise &= _compared(1, 2, word, side)
        rest = clause(1, word, pair[side], 2, False)
        text = sentence(text[:-1], "et", people[1].text, *rest)

    options = []
    for adjectives, to, (first, second), comparator, negative in product(
        (pair, unrelated), (0, 1), permutations(range(3), 2), words, _BOTH
    ):
        if negative and comparator == "aussi":
            continue  # "pas aussi grand" is understood as "moins grand", not as a plain denial
        meaning = _compared(first, second, comparator, to)
        label = relation(premise, _RANKS - meaning if negative else meaning) if adjectives is pair else NEUTRAL
        build = partial(render, first, comparator, adjectives[to], second, negative)
        options.append(Option(label, (comparator, negative), build))
    return Candidate(text, tuple(options))


def _compared(first: int, second: int, word: str, side: int) -> Situations:
    if word == "aussi":
        return frozenset(ranks for ranks in _RANKINGS if ranks[first] == ranks[second])
    return _earlier(first, second, reverse=(word == "plus") == (side == 0))


def coordination(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Et, ou and ni between three subjects or three objects; "ou" only in premises, where it leaves both open."""
    return _coordinated_subjects(rng, lexicon) if flip(rng) else _coordinated_objects(rng, lexicon)


_TRUTHS = tuple(product(_BOTH, repeat=3))


def _holds(form: str, members: tuple[int, ...]) -> Situations:
    test = {"et": all, "ou": any, "ni": lambda values: not any(values), "non": lambda values: not any(values)}
    return frozenset(values for values in _TRUTHS if test[form]([values[index] for index in members]))


_PREMISES = [("et", 2), ("et", 3), ("ou", 2), ("ni", 2), ("ni", 3), ("et", 1), ("non", 1)]
_HYPOTHESES = [("et", 1), ("non", 1), ("et", 2), ("ni", 2)]


def _coordination_options(premise: Situations, render: object, kind: str) -> tuple[Option, ...]:
    options = []
    for form, size in _HYPOTHESES:
        for members in permutations(range(3), size):
            label = relation(premise, _holds(form, members))
            options.append(Option(label, (kind, form, size), partial(render, form, members)))
    return tuple(options)


def _coordinated_subjects(rng: random.Random, lexicon: Lexicon) -> Candidate:
    people = draw(rng, lexicon.names, 3)
    verb, tense, place = rng.choice(lexicon.acting), tense_of(rng), place_phrase(rng, lexicon)

    def render(form: str, members: tuple[int, ...]) -> str:
        chosen = [people[index] for index in members]
        subject = chosen[0] if len(chosen) == 1 else join(chosen, form)
        group = predicate(verb, subject, tense, form in ("ni", "non"), particle=" pas" if form == "non" else "")
        return sentence(subject.text, group, place)

    form, size = rng.choice(_PREMISES)
    members = tuple(range(size))
    return Candidate(render(form, members), _coordination_options(_holds(form, members), render, "subject"))


def _coordinated_objects(rng: random.Random, lexicon: Lexicon) -> Candidate:
    name, verb, tense = rng.choice(lexicon.names), rng.choice(lexicon.creating), tense_of(rng)
    things = [concept.noun for concept in _unrelated(rng, lexicon)]

    def render(form: str, members: tuple[int, ...]) -> str:
        chosen = [things[index] for index in members]
        group = predicate(verb, name, tense, form in ("ni", "non"), particle=" pas" if form == "non" else "")
        if form == "ni":
            return sentence(name.text, group, " ".join(f"ni {noun.singular}" for noun in chosen))
        goods = [Phrase(direct_object(noun, form == "non")) for noun in chosen]
        return sentence(name.text, group, goods[0].text if len(goods) == 1 else join(goods, form).text)

    form, size = rng.choice(_PREMISES)
    members = tuple(range(size))
    return Candidate(render(form, members), _coordination_options(_holds(form, members), render, "object"))


def _unrelated(rng: random.Random, lexicon: Lexicon) -> list:
    while True:
        chosen = draw(rng, lexicon.concepts, 3)
        if not any(first.related(second) for first, second in permutations(chosen, 2)):
            return chosen
