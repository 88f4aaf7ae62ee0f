"""Exercises on two lines: what a reader of the second should notice about the first.

A mark at each content word of the second line says how the word relates to those of the first; the tokens that close
the user's turn say whether one line alone is negated, which word is new, which is lost, how the related words relate,
and whether the persons changed roles. Each is a question about words: what follows from a line is never asked.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.documents import Document, Mark
from tools.tiny_llama_fr.events import EVENTS, persons
from tools.tiny_llama_fr.exercises import NO, YES
from tools.tiny_llama_fr.french import Phrase
from tools.tiny_llama_fr.lexicon import NUMBERS
from tools.tiny_llama_fr.phenomena.amounts import BOUNDS, cardinals
from tools.tiny_llama_fr.vocabulary import Lexicon, listed
from tools.tiny_llama_fr.word_forms import (
    NEGATION,
    OPPOSITE,
    OTHER,
    SAME,
    WORD,
    is_negated,
    plain_word,
    vocabulary,
    word_relation,
    words,
)

NOTHING, NEGATED = "rien", "pas"
# The roles in an event: agent, giver, the earlier, the greater; and the other one's.
LEADS, FOLLOWS = "précède", "suit"
# Of three in a row, the one who both follows and precedes.
BETWEEN = "entre"
_ROLES = frozenset({LEADS, BETWEEN, FOLLOWS})
_BOUNDED = re.compile(rf"({'|'.join(BOUNDS)}) ({'|'.join(NUMBERS)})\b", re.IGNORECASE)
# Too frequent to tell anything about an alignment.
_UNALIGNED = frozenset(listed("le la les l un une d de du des a ont est sont été n que qu à au"))


def word_lists(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two lines of random words, which no grammar helps to compare."""
    known = vocabulary(lexicon)
    first = draw(rng, known, rng.randint(3, 9))
    second = [rng.choice(first) if flip(rng) else rng.choice(known) for _ in range(rng.randint(3, 8))]
    first_line, second_line = " ".join(first), " ".join(second)
    return Document(f"{first_line}\n{second_line}", "", marks=_marks(first_line, second_line, lexicon))


def sentences(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences about the same things."""
    closing = tuple(tell(text, sibling, lexicon) for tell in PROPERTIES.values())
    return Document(f"{text}\n{sibling}", "", marks=_marks(text, sibling, lexicon), closing=closing)


def property_asked(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences, and as the answer the one property that the system's turn names."""
    name = rng.choice(tuple(PROPERTIES))
    return sentences(rng, lexicon, text, sibling)._replace(system=name, answer=PROPERTIES[name](text, sibling, lexicon))


def signed_sentences(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `sentences` with a mark at the end of the first one: is it negated?"""
    document = sentences(rng, lexicon, text, sibling)
    sign = Mark(len(text) + 1, NEGATED if is_negated(text) else NOTHING)
    return document._replace(marks=(sign, *document.marks))


class _Exchange(NamedTuple):
    """Two sentences about an event: who is in each, the leading person first, and how the second's roles relate."""

    lines: tuple[str, str]
    before: tuple[Phrase, ...]
    after: tuple[Phrase, Phrase]
    verdict: str


def _exchange(rng: random.Random, lexicon: Lexicon) -> _Exchange:
    event = rng.choice(EVENTS)(rng, lexicon)
    *before, stranger = draw(rng, persons(lexicon), 4 if event.rank and flip(rng) else 3)
    first, second = draw(rng, before, 2)
    verdict = SAME if before.index(first) < before.index(second) else OPPOSITE
    if flip(rng):
        first, second = rng.choice(((first, stranger), (stranger, second)))
        verdict = OTHER
    opening = event.rank(*before) if event.rank and len(before) == 3 else event.tell(*before)
    return _Exchange((opening, event.tell(first, second)), tuple(before), (first, second), verdict)


def roles(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences about an event, each in any voice: its persons keep, exchange or change their roles."""
    exchange = _exchange(rng, lexicon)
    document = sentences(rng, lexicon, *exchange.lines)
    return document._replace(closing=(*document.closing, exchange.verdict))


def roles_by_steps(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `roles` with marks for the steps that lead to the verdict.

    At each full stop: was the leading person named first? At each person of the second sentence: the role in the first
    one. Three things that only together decide the verdict are hardly ever learned at once.
    """
    exchange = _exchange(rng, lexicon)
    lines, before = exchange.lines, exchange.before
    document = sentences(rng, lexicon, *lines)
    marks = dict(document.marks)
    for person, role in zip(before, (LEADS, BETWEEN, FOLLOWS) if len(before) == 3 else (LEADS, FOLLOWS), strict=True):
        match = _find(lines[1], person)
        if match:
            marks[len(lines[0]) + 1 + match.end()] = role
    first, second = _named_first(lines[0], before), _named_first(lines[1], exchange.after)
    steps = (Mark(len(lines[0]) + 1, first), *(Mark(end, verdict) for end, verdict in marks.items()))
    return document._replace(marks=steps, closing=(second, *document.closing[1:], exchange.verdict))


def roles_at_once(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `roles_by_steps` with the verdict at the second of two known persons, where it can be decided."""
    document = roles_by_steps(rng, lexicon, text, sibling)
    verdict = document.closing[-1]
    if verdict == OTHER:
        return document
    second = max(mark.end for mark in document.marks if mark.verdict in _ROLES)
    marks = (Mark(mark.end, verdict) if mark.end == second else mark for mark in document.marks)
    return document._replace(marks=tuple(marks))


def bounded_numbers(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences with bounds on a number, and whether each bound allows the number of the other sentence.

    The first sentence's bound is asked about at the second one's number, the second's after the sentences.
    """
    candidate = cardinals(rng, lexicon)
    first, second = candidate.premise, rng.choice(candidate.options).render()
    if flip(rng):
        first, second = second, first
    (bound, count, _), (other_bound, other_count, end) = (_bounded(line) for line in (first, second))
    document = sentences(rng, lexicon, first, second)
    number, answer = len(first) + 1 + end, _allowed(bound, count, other_count)
    marks = (Mark(mark.end, answer) if mark.end == number else mark for mark in document.marks)
    closing = (*document.closing, _allowed(other_bound, other_count, count))
    return document._replace(marks=tuple(marks), closing=closing)


def _bounded(line: str) -> tuple[str, int, int]:
    """Return the bound of a line, the number that it bounds, and the position where the number ends."""
    match = next(_BOUNDED.finditer(line))
    return match[1].lower(), NUMBERS.index(match[2]), match.end()


def _allowed(bound: str, limit: int, number: int) -> str:
    return YES if BOUNDS[bound](number, limit) else NO


def _find(line: str, person: Phrase) -> re.Match[str] | None:
    return re.search(rf"\b{_key(person)}\b", line)


def _named_first(line: str, ordered: tuple[Phrase, ...]) -> str:
    leader, *_, last = (match.start() for person in ordered if (match := _find(line, person)))
    return LEADS if leader < last else FOLLOWS


def _key(person: Phrase) -> str:
    """Return the word that names the person in any sentence: without its article."""
    return words(person.text)[-1]


def _marks(first_line: str, second_line: str, lexicon: Lexicon) -> tuple[Mark, ...]:
    present, start = words(first_line), len(first_line) + 1
    found = ((plain_word(match.group()), start + match.end()) for match in WORD.finditer(second_line))
    return tuple(Mark(end, word_relation(word, present, lexicon)) for word, end in found if word not in _UNALIGNED)


Property = Callable[[str, str, Lexicon], str]


def _sign(first: str, second: str, lexicon: Lexicon) -> str:
    return SAME if is_negated(first) == is_negated(second) else OTHER


def _new(first: str, second: str, lexicon: Lexicon) -> str:
    present = words(first)
    content = [word for word in words(second) if word not in _UNALIGNED | NEGATION]
    return next((word for word in content if word_relation(word, present, lexicon) == OTHER), NOTHING)


def _lost(first: str, second: str, lexicon: Lexicon) -> str:
    return _new(second, first, lexicon)


def _link(first: str, second: str, lexicon: Lexicon) -> str:
    present = words(first)
    relations = [word_relation(word, present, lexicon) for word in words(second) if word not in _UNALIGNED]
    return next((relation for relation in relations if relation not in (SAME, OTHER)), NOTHING)


PROPERTIES: dict[str, Property] = {"signe": _sign, "nouveau": _new, "perdu": _lost, "lien": _link}
