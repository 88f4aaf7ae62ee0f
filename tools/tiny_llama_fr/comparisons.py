"""Exercises on two lines: how the words of the second line relate to the first line.

A mark at each content word of the second line gives its relation to the words of the first line. The tokens that close
the user's turn give the differences between the lines: whether only one is negated, which word is new, which is lost,
how related words relate, and whether the people changed roles. All of these concern words, never inference.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.documents import Document, Mark
from tools.tiny_llama_fr.events import EVENTS, people
from tools.tiny_llama_fr.exercises import NO, YES
from tools.tiny_llama_fr.french import Phrase
from tools.tiny_llama_fr.lexicon import NUMBERS
from tools.tiny_llama_fr.phenomena.amounts import BOUNDS, cardinals
from tools.tiny_llama_fr.vocabulary import Lexicon, split_words
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
# The two roles in an event. The leading person acts, gives, comes earlier or ranks higher.
LEADS, FOLLOWS = "précède", "suit"
# The role of the middle person of three.
BETWEEN = "entre"
_ROLES = frozenset({LEADS, BETWEEN, FOLLOWS})
_BOUNDED = re.compile(rf"({'|'.join(BOUNDS)}) ({'|'.join(NUMBERS)})\b", re.IGNORECASE)
# Words that are too frequent to align two lines.
_UNALIGNED = frozenset(split_words("le la les l un une d de du des a ont est sont été n que qu à au"))


def word_lists(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two lines of random words, so that grammar does not help to compare them."""
    known = vocabulary(lexicon)
    first = draw(rng, known, rng.randint(3, 9))
    second = [rng.choice(first) if flip(rng) else rng.choice(known) for _ in range(rng.randint(3, 8))]
    first_line, second_line = " ".join(first), " ".join(second)
    return Document(f"{first_line}\n{second_line}", "", marks=_marks(first_line, second_line, lexicon))


def sentences(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences about the same things."""
    closing = tuple(compare(text, sibling, lexicon) for compare in PROPERTIES.values())
    return Document(f"{text}\n{sibling}", "", marks=_marks(text, sibling, lexicon), closing=closing)


def single_property(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences with one property as the answer, which the system's turn names."""
    name = rng.choice(tuple(PROPERTIES))
    return sentences(rng, lexicon, text, sibling)._replace(system=name, answer=PROPERTIES[name](text, sibling, lexicon))


def sentences_with_polarity(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `sentences` with a mark for the polarity of the first sentence at its end."""
    document = sentences(rng, lexicon, text, sibling)
    sign = Mark(len(text) + 1, NEGATED if is_negated(text) else NOTHING)
    return document._replace(marks=(sign, *document.marks))


class _RoleComparison(NamedTuple):
    """Two sentences about an event, the people in each (the leading one first), and how their roles relate."""

    lines: tuple[str, str]
    first_people: tuple[Phrase, ...]
    second_people: tuple[Phrase, Phrase]
    verdict: str


def _draw_role_comparison(rng: random.Random, lexicon: Lexicon) -> _RoleComparison:
    event = rng.choice(EVENTS)(rng, lexicon)
    *first_people, stranger = draw(rng, people(lexicon), 4 if event.describe_chain and flip(rng) else 3)
    first, second = draw(rng, first_people, 2)
    verdict = SAME if first_people.index(first) < first_people.index(second) else OPPOSITE
    if flip(rng):
        # A person who is not in the first sentence, so no role can be compared.
        first, second = rng.choice(((first, stranger), (stranger, second)))
        verdict = OTHER
    opening = (
        event.describe_chain(*first_people)
        if event.describe_chain and len(first_people) == 3
        else event.describe(*first_people)
    )
    return _RoleComparison((opening, event.describe(first, second)), tuple(first_people), (first, second), verdict)


def roles(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences about an event in any voice, in which the people keep, swap or change their roles."""
    comparison = _draw_role_comparison(rng, lexicon)
    document = sentences(rng, lexicon, *comparison.lines)
    return document._replace(closing=(*document.closing, comparison.verdict))


def roles_by_steps(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `roles` with marks for the steps that lead to the verdict.

    Each full stop is marked with the role of the person who was named first in its sentence. Each person of the second
    sentence is marked with the role that this person has in the first one.
    """
    # The verdict depends on all three roles, which a model hardly ever learns without these intermediate steps.
    comparison = _draw_role_comparison(rng, lexicon)
    lines, first_people = comparison.lines, comparison.first_people
    document = sentences(rng, lexicon, *lines)
    marks = dict(document.marks)
    for person, role in zip(
        first_people, (LEADS, BETWEEN, FOLLOWS) if len(first_people) == 3 else (LEADS, FOLLOWS), strict=True
    ):
        match = _find(lines[1], person)
        if match:
            marks[len(lines[0]) + 1 + match.end()] = role
    first, second = _named_first(lines[0], first_people), _named_first(lines[1], comparison.second_people)
    steps = (Mark(len(lines[0]) + 1, first), *(Mark(end, verdict) for end, verdict in marks.items()))
    return document._replace(marks=steps, closing=(second, *document.closing[1:], comparison.verdict))


def roles_at_once(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return `roles_by_steps` with the verdict already at the second known person, where it is decidable."""
    document = roles_by_steps(rng, lexicon, text, sibling)
    verdict = document.closing[-1]
    if verdict == OTHER:
        return document
    second = max(mark.end for mark in document.marks if mark.verdict in _ROLES)
    marks = (Mark(mark.end, verdict) if mark.end == second else mark for mark in document.marks)
    return document._replace(marks=tuple(marks))


def bounded_numbers(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Document:
    """Return two sentences with bounds on a number, and whether each bound allows the other sentence's number.

    The verdict on the first bound is a mark at the second number. The verdict on the second bound closes the turn.
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
    """Return the bound in a line, its number, and the position at which the number ends."""
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
    """Return the word that names the person in every sentence, without the article."""
    return words(person.text)[-1]


def _marks(first_line: str, second_line: str, lexicon: Lexicon) -> tuple[Mark, ...]:
    present, start = words(first_line), len(first_line) + 1
    ends = ((plain_word(match.group()), start + match.end()) for match in WORD.finditer(second_line))
    return tuple(Mark(end, word_relation(word, present, lexicon)) for word, end in ends if word not in _UNALIGNED)


Property = Callable[[str, str, Lexicon], str]


def _compare_polarity(first: str, second: str, lexicon: Lexicon) -> str:
    return SAME if is_negated(first) == is_negated(second) else OTHER


def _find_new_word(first: str, second: str, lexicon: Lexicon) -> str:
    present = words(first)
    content = [word for word in words(second) if word not in _UNALIGNED | NEGATION]
    return next((word for word in content if word_relation(word, present, lexicon) == OTHER), NOTHING)


def _find_lost_word(first: str, second: str, lexicon: Lexicon) -> str:
    return _find_new_word(second, first, lexicon)


def _find_relation(first: str, second: str, lexicon: Lexicon) -> str:
    present = words(first)
    relations = [word_relation(word, present, lexicon) for word in words(second) if word not in _UNALIGNED]
    return next((relation for relation in relations if relation not in (SAME, OTHER)), NOTHING)


PROPERTIES: dict[str, Property] = {
    "signe": _compare_polarity,
    "nouveau": _find_new_word,
    "perdu": _find_lost_word,
    "lien": _find_relation,
}
