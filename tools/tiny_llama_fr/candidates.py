"""Candidates for the dataset: a premise and its possible hypotheses, each with a label and a signature.

Labels follow from set relations. A sentence is represented by the set of situations in which it is true. A hypothesis
is entailed if it holds in all of the premise's situations, contradicted if it holds in none, and neutral otherwise.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = LABELS

Situations = frozenset[Hashable]
Item = TypeVar("Item")


class Option(NamedTuple):
    """A possible hypothesis.

    `signature` is everything in the hypothesis from which a hypothesis-only baseline could learn the label.
    """

    label: str
    signature: tuple[Hashable, ...]
    render: Callable[[], str]


class Candidate(NamedTuple):
    """A premise with its possible hypotheses."""

    premise: str
    options: tuple[Option, ...]


def relation(premise: Situations, hypothesis: Situations) -> str:
    """Return the label of a hypothesis. Both sentences are given as the sets of situations in which they are true."""
    if premise <= hypothesis:
        return ENTAILMENT
    return NEUTRAL if premise & hypothesis else CONTRADICTION


def polarity_label(is_reversed: bool) -> str:
    """Return contradiction if the polarity of an otherwise entailed hypothesis is reversed, else entailment."""
    return CONTRADICTION if is_reversed else ENTAILMENT


def flip(rng: random.Random) -> bool:
    """Toss a fair coin."""
    return rng.random() < 0.5


def draw(rng: random.Random, items: Sequence[Item], count: int) -> list[Item]:
    """Draw `count` distinct items."""
    return rng.sample(items, count)
