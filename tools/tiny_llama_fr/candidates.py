"""Candidates for the data: a premise and, under each label, possible hypotheses with their signatures.

Labels come from sets: a sentence is the set of situations in which it is true, so a hypothesis follows when it holds
in all of the premise's situations, is excluded when it holds in none, and is open otherwise.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = LABELS

Situations = frozenset[Hashable]
Item = TypeVar("Item")


class Option(NamedTuple):
    """A possible hypothesis; `signature` is all that a reader of the hypothesis alone could learn a label from."""

    label: str
    signature: tuple[Hashable, ...]
    render: Callable[[], str]


class Candidate(NamedTuple):
    """A premise with its possible hypotheses."""

    premise: str
    options: tuple[Option, ...]


def relation(premise: Situations, hypothesis: Situations) -> str:
    """Return the label of a hypothesis, both sentences given as the sets of situations in which they are true."""
    if premise <= hypothesis:
        return ENTAILMENT
    return NEUTRAL if premise & hypothesis else CONTRADICTION


def polarity_label(negated: bool) -> str:
    """Return the label of a hypothesis whose positive form follows: contradiction when it is negated."""
    return CONTRADICTION if negated else ENTAILMENT


def flip(rng: random.Random) -> bool:
    """Toss a fair coin."""
    return rng.random() < 0.5


def draw(rng: random.Random, items: Sequence[Item], count: int) -> list[Item]:
    """Draw `count` different items."""
    return rng.sample(items, count)
