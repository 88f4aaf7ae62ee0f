"""Phenomena of opposites and of semantic roles: antonyms, converses, voice."""

import random
from functools import partial
from itertools import product

from tools.tiny_llama_fr.candidates import NEUTRAL, Candidate, Option, Situations, draw, flip, polarity_label, relation
from tools.tiny_llama_fr.french import ETRE, Noun, Phrase, definite, direct_object, passive, predicate, sentence
from tools.tiny_llama_fr.lexicon import PERSON_OPPOSITES, THING_OPPOSITES
from tools.tiny_llama_fr.phenomena.common import BOTH, tense_of, unrelated
from tools.tiny_llama_fr.vocabulary import Lexicon, Opposites

# Situations for an antonym pair. -2: very much the second adjective, -1: the second, 0: neither, 1: the first, 2: very
# much the first. Of a complementary pair exactly one holds, so it has only -1 and 1.
_SCALE = frozenset({-2, -1, 0, 1, 2})
_POLES = frozenset({-1, 1})


def antonyms(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw opposites, either complementary (ouvert, fermé) or with a middle ground (grand, petit)."""
    if flip(rng):
        subject, pairs = definite(rng.choice(lexicon.roles)), PERSON_OPPOSITES
        subject = rng.choice((subject, rng.choice(lexicon.names)))
    else:
        thing, owner = definite(rng.choice(lexicon.openables)), rng.choice(lexicon.names)
        subject, pairs = Phrase(f"{thing.text} de {owner.text}", thing.feminine), THING_OPPOSITES
    pair, unrelated_pair = draw(rng, pairs, 2)
    forms = [
        (side, very, negative) for side in (1, -1) for very, negative in ((False, False), (True, False), (False, True))
    ]
    side, very, negated = rng.choice(forms)
    very = very and not pair[2]  # complementary adjectives have no degrees

    def render(opposites: Opposites, side: int, very: bool, negative: bool) -> str:
        adjective = (opposites[0] if side > 0 else opposites[1]).agree(subject.feminine)
        return sentence(subject.text, predicate(ETRE, subject, negated=negative), "très" if very else "", adjective)

    premise = _degrees(pair[2], side, very, negated)
    options = []
    for opposites, (new_side, intense, negative) in product((pair, unrelated_pair), forms):
        if intense and opposites[2]:
            continue
        label = relation(premise, _degrees(opposites[2], new_side, intense, negative)) if opposites is pair else NEUTRAL
        signature = (negative, intense, opposites[2])
        options.append(Option(label, signature, partial(render, opposites, new_side, intense, negative)))
    return Candidate(render(pair, side, very, negated), tuple(options))


def _degrees(complementary: bool, side: int, very: bool, negated: bool) -> Situations:
    if complementary:
        return _POLES - {side} if negated else frozenset({side})
    true = frozenset({side * 2} if very else {side, side * 2})
    return _SCALE - true if negated else true


def converses(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw an event from its two sides: "Paul prête un livre à Léa" means "Léa emprunte un livre à Paul"."""
    entry = rng.choice(lexicon.converses)
    first, second, third = draw(rng, lexicon.names, 3)
    tense = "present" if entry.asymmetric else tense_of(rng)
    thing, other_thing, _ = (concept.noun for concept in unrelated(rng, lexicon))

    def render(giver: Phrase, taker: Phrase, noun: Noun, reverse: bool, negative: bool) -> str:
        subject, partner = (taker, giver) if reverse else (giver, taker)
        verb, link = (entry.converse, entry.back) if reverse else (entry.verb, entry.link)
        goods = direct_object(noun, negative) if entry.has_thing else ""
        return sentence(subject.text, predicate(verb, subject, tense, negative), goods, link, partner.text)

    reverse, negated = flip(rng), rng.random() < 0.4
    premise_event = (first, second, thing)
    options = []
    events = [premise_event, (second, first, thing), (first, third, thing), (third, second, thing)]
    events += [(first, second, other_thing)] if entry.has_thing else []
    for event, backwards, negative in product(events, BOTH, BOTH):
        label = NEUTRAL
        if event == premise_event:
            label = polarity_label(negative != negated)
        elif event[:2] == (second, first) and entry.asymmetric and not negated:
            label = polarity_label(not negative)
        signature = (entry.verb, entry.link, backwards, negative)
        options.append(Option(label, signature, partial(render, *event, backwards, negative)))
    return Candidate(render(first, second, thing, reverse, negated), tuple(options))


def voice(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw active and passive sentences. They mean the same unless agent and patient are swapped."""
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

    form, negated = rng.choice(("active", "passive")), flip(rng)
    options = []
    for swapped, new_form, negative in product(BOTH, ("active", "passive", "short"), BOTH):
        roles = (patient, agent) if swapped else (agent, patient)
        # "La voisine n'est pas aidée par Paul" leaves open whether somebody else helps her.
        follows = not swapped and not (negated and new_form == "short")
        label = polarity_label(negative != negated) if follows else NEUTRAL
        options.append(Option(label, (new_form, negative), partial(render, *roles, new_form, negative)))
    return Candidate(render(agent, patient, form, negated), tuple(options))
