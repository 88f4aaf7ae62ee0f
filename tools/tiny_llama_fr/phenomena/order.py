"""Phenomena of order: before and after, and comparatives. Both are rankings of three people that allow equal ranks."""

import random
from functools import partial
from itertools import permutations, product

from tools.tiny_llama_fr.candidates import NEUTRAL, Candidate, Option, Situations, draw, flip, relation
from tools.tiny_llama_fr.french import ETRE, Adjective, predicate, sentence
from tools.tiny_llama_fr.lexicon import COMPARABLE
from tools.tiny_llama_fr.phenomena.common import BOTH
from tools.tiny_llama_fr.vocabulary import Lexicon

# All assignments of ranks to three people, including equal ranks.
_RANKINGS = tuple(product(range(3), repeat=3))
_RANKS: Situations = frozenset(_RANKINGS)


def temporal_order(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw sentences with avant and après, and their chains.

    An earlier event has a lower rank, and events with equal ranks are simultaneous.
    """
    people = draw(rng, lexicon.names, 3)
    verb = rng.choice(lexicon.moving)

    def render(first: int, second: int, after: bool, negative: bool) -> str:
        group = predicate(verb, people[first], "past", negative)
        return sentence(people[first].text, group, "après" if after else "avant", people[second].text)

    after = flip(rng)
    premise, text = _earlier(0, 1, after), render(0, 1, after, False)
    if flip(rng):
        premise &= _earlier(0, 2, not after)
        group, words = predicate(verb, people[0], "past"), ("après", "avant") if after else ("avant", "après")
        text = sentence(people[0].text, group, words[0], people[1].text, "et", words[1], people[2].text)

    options = []
    for (first, second), later, negative in product(permutations(range(3), 2), BOTH, BOTH):
        meaning = _earlier(first, second, later)
        label = relation(premise, _RANKS - meaning if negative else meaning)
        options.append(Option(label, (later, negative), partial(render, first, second, later, negative)))
    return Candidate(text, tuple(options))


def _earlier(first: int, second: int, reverse: bool = False) -> Situations:
    low, high = (second, first) if reverse else (first, second)
    return frozenset(ranks for ranks in _RANKINGS if ranks[low] < ranks[high])


def comparatives(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw comparisons of three people with plus, moins and aussi, by an adjective or its opposite."""
    people = draw(rng, lexicon.names, 3)
    pair, unrelated = draw(rng, COMPARABLE, 2)

    def clause(first: int, word: str, adjective: Adjective, second: int, negative: bool) -> tuple[str, ...]:
        subject = people[first]
        form = adjective.agree(subject.feminine)
        return predicate(ETRE, subject, negated=negative), word, form, "que", people[second].text

    def render(first: int, word: str, adjective: Adjective, second: int, negative: bool) -> str:
        return sentence(people[first].text, *clause(first, word, adjective, second, negative))

    words = ("plus", "moins", "aussi")
    word, side = rng.choice(("plus", "moins", "plus", "moins", "aussi")), rng.randrange(2)
    premise = _compared(0, 1, word, side)
    text = render(0, word, pair[side], 1, False)
    if flip(rng):
        premise &= _compared(1, 2, word, side)
        rest = clause(1, word, pair[side], 2, False)
        text = sentence(text[:-1], "et", people[1].text, *rest)

    options = []
    for adjectives, new_side, (first, second), comparator, negative in product(
        (pair, unrelated), (0, 1), permutations(range(3), 2), words, BOTH
    ):
        # "Pas aussi grand" is understood as "moins grand", not as its literal denial. "Pas moins petit" is hardly used.
        if (negative and comparator != "plus") or (new_side != side and comparator != word):
            continue
        meaning = _compared(first, second, comparator, new_side)
        label = relation(premise, _RANKS - meaning if negative else meaning) if adjectives is pair else NEUTRAL
        build = partial(render, first, comparator, adjectives[new_side], second, negative)
        options.append(Option(label, (comparator, negative), build))
    return Candidate(text, tuple(options))


def _compared(first: int, second: int, word: str, side: int) -> Situations:
    if word == "aussi":
        return frozenset(ranks for ranks in _RANKINGS if ranks[first] == ranks[second])
    return _earlier(first, second, reverse=(word == "plus") == (side == 0))
