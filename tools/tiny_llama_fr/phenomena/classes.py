"""Phenomena of containment: negation, hypernymy and adjuncts."""

import random
from functools import partial

from tools.tiny_llama_fr.candidates import NEUTRAL, Candidate, Option, draw, flip, polarity_label
from tools.tiny_llama_fr.french import (
    ETRE,
    Adjective,
    Noun,
    Phrase,
    definite,
    direct_object,
    indefinite,
    none_of,
    predicate,
    sentence,
)
from tools.tiny_llama_fr.lexicon import COLORS
from tools.tiny_llama_fr.phenomena.common import (
    BOTH,
    inclusion,
    nearby,
    occasion_phrase,
    of_any_level,
    place_phrase,
    tense_of,
)
from tools.tiny_llama_fr.vocabulary import Lexicon


def negation(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw changes of noun and color: "un labrador noir" entails "un chien", and negation reverses the direction."""
    name, verb, tense = rng.choice(lexicon.names), rng.choice(lexicon.creating), tense_of(rng)
    concept, negated = rng.choice(lexicon.concepts), flip(rng)
    first, second = draw(rng, COLORS, 2)
    color = first if flip(rng) else None

    def render(noun: Noun, adjective: Adjective | None, negative: bool) -> str:
        return sentence(name.text, predicate(verb, name, tense, negative), direct_object(noun, negative, adjective))

    options = []
    for other in nearby(rng, concept, lexicon.concepts):
        for adjective in (None, color or first, second):
            narrower = adjective is not None and adjective != color
            wider = color is not None and adjective != color
            follows = bool(inclusion(concept, other, negated)) and not (wider if negated else narrower)
            for negative in BOTH:
                label = polarity_label(negative != negated) if follows else NEUTRAL
                signature = (negative, other.level, adjective is not None)
                options.append(Option(label, signature, partial(render, other.noun, adjective, negative)))
    return Candidate(render(concept.noun, color, negated), tuple(options))


def hypernymy(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw concepts that include or exclude each other, for a gift ("est un violon") or an agent ("un chat dort")."""
    return _gift(rng, lexicon) if flip(rng) else _existence(rng, lexicon)


def _gift(rng: random.Random, lexicon: Lexicon) -> Candidate:
    concept, negated = of_any_level(rng, lexicon.concepts), rng.random() < 0.4
    owner, stranger = draw(rng, lexicon.names, 2)
    gift = definite(rng.choice(lexicon.gifts))

    def render(noun: Noun, negative: bool, owner: Phrase = owner) -> str:
        return sentence(gift.text, "de", owner.text, predicate(ETRE, gift, negated=negative), indefinite(noun).text)

    options = []
    for other in nearby(rng, concept, lexicon.concepts):
        follows = inclusion(concept, other, negated)
        for negative in BOTH:
            # A gift is one thing, so with exclusive nouns a positive premise contradicts the positive hypothesis and
            # entails the negative one.
            if follows:
                label = polarity_label(negative != negated)
            elif follows is None and not negated:
                label = polarity_label(not negative)
            else:
                label = NEUTRAL
            # No other sentence entails a positive sentence with the narrowest noun, so it would reveal its label.
            if negative or other.level > 0:
                signature = ("gift", negative, other.level)
                options.append(Option(label, signature, partial(render, other.noun, negative)))
                options.append(Option(NEUTRAL, signature, partial(render, other.noun, negative, stranger)))
    return Candidate(render(concept.noun, negated), tuple(options))


def _existence(rng: random.Random, lexicon: Lexicon) -> Candidate:
    pool = lexicon.animals + lexicon.people
    concept, negated, tense = of_any_level(rng, pool), flip(rng), tense_of(rng)
    verb, place = rng.choice(lexicon.living), place_phrase(rng, lexicon)

    def render(noun: Noun, negative: bool) -> str:
        subject = none_of(noun) if negative else indefinite(noun)
        return sentence(subject.text, predicate(verb, subject, tense, negative, particle=""), place)

    options = []
    for other in nearby(rng, concept, pool):
        follows = inclusion(concept, other, negated)
        for negative in BOTH:
            label = polarity_label(negative != negated) if follows else NEUTRAL
            # As in `_gift`, and likewise no other sentence entails a negative one with the widest noun.
            if (negative or other.level > 0) and not (negative and other.level == 2):
                options.append(Option(label, ("exists", negative, other.level), partial(render, other.noun, negative)))
    return Candidate(render(concept.noun, negated), tuple(options))


def adjuncts(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw adjuncts: a positive sentence entails those with fewer adjuncts, a negative one those with more."""
    subject, stranger, friend = draw(rng, lexicon.names, 3)
    verb, tense, negated = rng.choice(lexicon.acting), tense_of(rng), flip(rng)
    adjunct = (place_phrase(rng, lexicon), occasion_phrase(rng, lexicon), f"avec {friend.text}")
    subsets = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    given = set(rng.choice(subsets))

    def render(chosen: tuple[int, ...], negative: bool, subject: Phrase = subject) -> str:
        verb_group = predicate(verb, subject, tense, negative)
        return sentence(subject.text, verb_group, *(adjunct[index] for index in sorted(chosen, reverse=True)))

    options = []
    for chosen in subsets:
        follows = given <= set(chosen) if negated else set(chosen) <= given
        for negative in BOTH:
            # No other sentence entails a positive one with two adjuncts or a negative one without adjuncts, so they
            # would reveal their label.
            if len(chosen) < 2 if not negative else chosen:
                label = polarity_label(negative != negated) if follows else NEUTRAL
                options.append(Option(label, (negative, chosen), partial(render, chosen, negative)))
                options.append(Option(NEUTRAL, (negative, chosen), partial(render, chosen, negative, stranger)))
    return Candidate(render(tuple(given), negated), tuple(options))
