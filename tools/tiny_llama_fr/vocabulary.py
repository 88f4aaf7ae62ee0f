"""The structure of a lexicon and its compact notation.

`:f` marks a feminine noun, `+` a verb that takes être, and `/` separates the masculine and feminine adjective forms.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tools.tiny_llama_fr.french import Adjective, Noun, Phrase, Verb

Opposites = tuple[Adjective, Adjective, bool]


def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words at spaces."""
    return tuple(text.split())


def noun(text: str) -> Noun:
    """Parse a noun, such as the feminine `rose:f`."""
    word, _, gender = text.partition(":")
    return Noun(word, gender == "f")


def nouns(text: str) -> tuple[Noun, ...]:
    """Parse nouns separated by spaces."""
    return tuple(noun(word) for word in text.split())


def verbs(text: str) -> tuple[Verb, ...]:
    """Parse verbs separated by commas, each as singular, plural and participle."""
    return tuple(verb(entry) for entry in text.split(","))


def verb(text: str) -> Verb:
    """Parse a verb, such as `tombe tombent tombé+`, which takes être."""
    singular, plural, participle = text.split()
    return Verb(singular, plural, participle.removesuffix("+"), participle.endswith("+"))


def adjective(text: str) -> Adjective:
    """Parse an adjective: `noir/noire`, or `jeune` if both forms are equal."""
    masculine, _, feminine = text.partition("/")
    return Adjective(masculine, feminine or masculine)


def places(text: str) -> tuple[tuple[str, Noun], ...]:
    """Parse places, each a preposition and a noun: `dans jardin,sur plage:f`."""
    return tuple((entry.split()[0], noun(entry.split()[1])) for entry in text.split(","))


class Concept(NamedTuple):
    """A noun in the hierarchy. The level is 0 for a leaf such as labrador, 1 for chien and 2 for animal."""

    noun: Noun
    level: int
    ancestors: tuple[Noun, ...]

    def is_below(self, other: "Concept") -> bool:
        """Return whether the other concept is an ancestor and so includes everything of this kind."""
        return other.noun in self.ancestors

    def is_related_to(self, other: "Concept") -> bool:
        """Return whether one concept includes the other. Unrelated concepts exclude each other."""
        return self.noun == other.noun or self.is_below(other) or other.is_below(self)


def hierarchy(text: str) -> tuple[Concept, ...]:
    """Parse lines of `top > middle > kinds` or `middle > kinds` into unique concepts."""
    concepts: dict[Noun, Concept] = {}
    for line in text.strip().splitlines():
        *heads, kinds = [part.strip() for part in line.split(">")]
        chain = [noun(head) for head in heads]
        for depth, head in enumerate(chain):
            level = len(chain) - depth
            concepts.setdefault(head, Concept(head, level, tuple(chain[:depth])))
        for kind in nouns(kinds):
            concepts[kind] = Concept(kind, 0, tuple(chain))
    return tuple(concepts.values())


class Converse(NamedTuple):
    """Two verbs that describe one event from its two sides: A `verb` (thing) `link` B = B `converse` (thing) `back` A.

    An `asymmetric` relation excludes its reversal (such as "in front of"). Otherwise both can be true.
    """

    verb: Verb
    link: str
    converse: Verb
    back: str
    has_thing: bool = False
    asymmetric: bool = False


@dataclass(frozen=True)
class Lexicon:
    """The open-class words that a split can use."""

    men: tuple[str, ...]
    women: tuple[str, ...]
    things: tuple[Concept, ...]
    animals: tuple[Concept, ...]
    people: tuple[Concept, ...]
    roles: tuple[Noun, ...]
    gifts: tuple[Noun, ...]
    openables: tuple[Noun, ...]
    places: tuple[tuple[str, Noun], ...]
    domains: tuple[Noun, ...]
    occasions: tuple[Noun, ...]
    creating: tuple[Verb, ...]
    living: tuple[Verb, ...]
    acting: tuple[Verb, ...]
    moving: tuple[Verb, ...]
    social: tuple[Verb, ...]
    converses: tuple[Converse, ...]

    @cached_property
    def names(self) -> tuple[Phrase, ...]:
        """The first names as phrases."""
        return tuple(Phrase(name) for name in self.men) + tuple(Phrase(name, True) for name in self.women)

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """All animals and things, which can be drawn, bought or given."""
        return self.animals + self.things
