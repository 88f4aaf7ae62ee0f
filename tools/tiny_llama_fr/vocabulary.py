"""The structure of a lexicon, and the compact notation it is written in.

`:f` marks a feminine noun, `+` a verb that takes être, `/` separates an adjective's masculine from its feminine form.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tools.tiny_llama_fr.french import Adjective, Noun, Phrase, Verb

Opposites = tuple[Adjective, Adjective, bool]


def listed(text: str) -> tuple[str, ...]:
    """Split a text into words at its spaces."""
    return tuple(text.split())


def noun(text: str) -> Noun:
    """Parse a noun: `rose:f` is feminine."""
    word, _, gender = text.partition(":")
    return Noun(word, gender == "f")


def nouns(text: str) -> tuple[Noun, ...]:
    """Parse nouns separated by spaces."""
    return tuple(noun(word) for word in text.split())


def verbs(text: str) -> tuple[Verb, ...]:
    """Parse verbs separated by commas, each as singular, plural and participle."""
    return tuple(verb(entry) for entry in text.split(","))


def verb(text: str) -> Verb:
    """Parse a verb: `tombe tombent tombé+` takes être."""
    singular, plural, participle = text.split()
    return Verb(singular, plural, participle.removesuffix("+"), participle.endswith("+"))


def adjective(text: str) -> Adjective:
    """Parse an adjective: `noir/noire` or, where both genders agree, `jeune`."""
    masculine, _, feminine = text.partition("/")
    return Adjective(masculine, feminine or masculine)


def places(text: str) -> tuple[tuple[str, Noun], ...]:
    """Parse places, each a preposition and a noun: `dans jardin,sur plage:f`."""
    return tuple((entry.split()[0], noun(entry.split()[1])) for entry in text.split(","))


class Concept(NamedTuple):
    """A noun in the hierarchy; `level` is 0 for a kind such as labrador, 1 for chien, 2 for animal."""

    noun: Noun
    level: int
    ancestors: tuple[Noun, ...]

    def below(self, other: "Concept") -> bool:
        """Return whether every thing of this kind is one of the other."""
        return other.noun in self.ancestors

    def related(self, other: "Concept") -> bool:
        """Return whether one contains the other; kinds that are not related exclude each other."""
        return self.noun == other.noun or self.below(other) or other.below(self)


def hierarchy(text: str) -> tuple[Concept, ...]:
    """Parse lines of `top > middle > kinds` or `middle > kinds` into concepts, each listed once."""
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
    """Two verbs for one event seen from its two sides: A `verb` (thing) `link` B = B `converse` (thing) `back` A.

    `asymmetric`: the relation excludes its own reversal (before, ahead of); otherwise the reversal stays possible.
    """

    verb: Verb
    link: str
    converse: Verb
    back: str
    has_thing: bool = False
    asymmetric: bool = False


@dataclass(frozen=True)
class Lexicon:
    """The open-class words one split may use."""

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
        """First names as phrases."""
        return tuple(Phrase(name) for name in self.men) + tuple(Phrase(name, True) for name in self.women)

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """Everything that can be drawn, bought or given."""
        return self.animals + self.things
