"""Draws that several phenomena share: adjuncts, tense and related concepts."""

import random
from itertools import permutations

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.french import Tense, definite
from tools.tiny_llama_fr.vocabulary import Concept, Lexicon

BOTH = (False, True)


def tense_of(rng: random.Random) -> Tense:
    """Draw present or past with equal probability."""
    return "past" if flip(rng) else "present"


def place_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """Draw a place, such as "dans la cuisine"."""
    preposition, noun = rng.choice(lexicon.places)
    return f"{preposition} {definite(noun).text}"


def occasion_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """Draw an occasion, such as "pendant l'orage"."""
    return f"pendant {definite(rng.choice(lexicon.occasions)).text}"


def inclusion(premise: Concept, hypothesis: Concept, premise_negated: bool) -> bool | None:
    """Return whether replacing the premise's noun with the hypothesis's noun preserves truth, with equal polarity.

    None means that the two nouns exclude each other. Negation reverses the direction: "un chien" follows from "un
    labrador", but "pas de labrador" follows from "pas de chien".
    """
    if not premise.is_related_to(hypothesis):
        return None
    if premise.noun == hypothesis.noun:
        return True
    return hypothesis.is_below(premise) if premise_negated else premise.is_below(hypothesis)


def of_any_level(rng: random.Random, pool: tuple[Concept, ...]) -> Concept:
    """Draw a concept of a random level. All levels are equally likely, although lower levels have more concepts."""
    level = rng.choice(sorted({concept.level for concept in pool}))
    return rng.choice([concept for concept in pool if concept.level == level])


def nearby(rng: random.Random, concept: Concept, pool: tuple[Concept, ...]) -> list[Concept]:
    """Return the concept, its ancestors, two descendants and two unrelated concepts, one of them of the same level."""
    descendants = [candidate for candidate in pool if candidate.is_below(concept)]
    ancestors = [candidate for candidate in pool if concept.is_below(candidate)]
    strangers = [candidate for candidate in pool if not concept.is_related_to(candidate)]
    same_level = [stranger for stranger in strangers if stranger.level == concept.level] or strangers
    drawn_strangers = [rng.choice(strangers), rng.choice(same_level)] if strangers else []
    return [concept, *ancestors, *draw(rng, descendants, min(2, len(descendants))), *drawn_strangers]


def unrelated(rng: random.Random, lexicon: Lexicon) -> list[Concept]:
    """Draw three mutually unrelated concepts."""
    while True:
        chosen = draw(rng, lexicon.concepts, 3)
        if not any(first.is_related_to(second) for first, second in permutations(chosen, 2)):
            return chosen
