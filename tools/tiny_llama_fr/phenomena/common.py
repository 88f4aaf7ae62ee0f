"""Draws that several phenomena share: adjuncts, tense, and the kinds near a kind."""

import random
from itertools import permutations

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.french import Tense, definite
from tools.tiny_llama_fr.vocabulary import Concept, Lexicon

BOTH = (False, True)


def tense_of(rng: random.Random) -> Tense:
    """Draw present or past, equally often."""
    return "past" if flip(rng) else "present"


def place_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """Draw a place, such as "dans la cuisine"."""
    preposition, noun = rng.choice(lexicon.places)
    return f"{preposition} {definite(noun).text}"


def occasion_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """Draw an occasion, such as "pendant l'orage"."""
    return f"pendant {definite(rng.choice(lexicon.occasions)).text}"


def inclusion(premise: Concept, hypothesis: Concept, premise_negated: bool) -> bool | None:
    """Return whether the hypothesis, with the premise's polarity, follows from a change of noun.

    None means that the two nouns exclude each other.

    Negation reverses the direction: "un chien" follows from "un labrador", "pas de labrador" from "pas de chien".
    """
    if not premise.related(hypothesis):
        return None
    if premise.noun == hypothesis.noun:
        return True
    return hypothesis.below(premise) if premise_negated else premise.below(hypothesis)


def of_any_level(rng: random.Random, pool: tuple[Concept, ...]) -> Concept:
    """Draw a kind of the pool, each level as likely as the others, though there are far more labradors than animals."""
    level = rng.choice(sorted({concept.level for concept in pool}))
    return rng.choice([concept for concept in pool if concept.level == level])


def nearby(rng: random.Random, concept: Concept, pool: tuple[Concept, ...]) -> list[Concept]:
    """Return the concept, its relatives (two of those below) and two strangers, one of them of its own level."""
    below = [other for other in pool if other.below(concept)]
    above = [other for other in pool if concept.below(other)]
    strangers = [other for other in pool if not concept.related(other)]
    level = [other for other in strangers if other.level == concept.level] or strangers
    others = [rng.choice(strangers), rng.choice(level)] if strangers else []
    return [concept, *above, *draw(rng, below, min(2, len(below))), *others]


def unrelated(rng: random.Random, lexicon: Lexicon) -> list[Concept]:
    """Draw three kinds of which none contains another."""
    while True:
        chosen = draw(rng, lexicon.concepts, 3)
        if not any(first.related(second) for first, second in permutations(chosen, 2)):
            return chosen
