"""Exercises on sentences: copying, membership, word alignment, roles, ranks.

They ask about words, one answer per word or person, so that a model learns to match words between two texts; what
follows from a sentence is never asked.
"""

import random
from collections.abc import Callable
from itertools import pairwise

from toolkit.embedded.candidates import draw, flip
from toolkit.embedded.french import definite, elide, indefinite, passive, predicate, sentence
from toolkit.embedded.lexicon import COMPARABLE
from toolkit.embedded.phenomena.common import tense_of
from toolkit.embedded.vocabulary import Lexicon, listed
from toolkit.embedded.word_forms import OTHER, SAME, vocabulary, word_groups, word_relation, words

Task = tuple[str, str]

YES, NO, NOTHING = "oui", "non", "rien"
# Too frequent to tell anything about an alignment.
_UNALIGNED = frozenset(listed("le la les l un une de d du des a ont est sont été n que qu à au"))


def copying(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat a sentence."""
    return text, text


def word_list(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Repeat words in random order, which no grammar helps to guess."""
    drawn = " ".join(draw(rng, vocabulary(lexicon), rng.randint(3, 16)))
    return drawn, drawn


def list_membership(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Name random words, each followed by whether the list has it."""
    known = vocabulary(lexicon)
    first = draw(rng, known, rng.randint(4, 12))
    asked = [rng.choice(first) if flip(rng) else rng.choice(known) for _ in range(rng.randint(3, 10))]
    return " ".join(first), " ".join(f"{word} {SAME if word in first else OTHER}" for word in asked)


def membership(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Name words, each followed by whether the sentence has it."""
    present = words(text)
    groups = word_groups(lexicon)
    asked = [rng.choice(present) if flip(rng) else rng.choice(rng.choice(groups)) for _ in range(rng.randint(3, 8))]
    return text, " ".join(f"{word} {YES if word in present else NO}" for word in asked)


def alignment(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Name the content words of another sentence, each followed by its relation to the words of this one."""
    return _aligned(text, text, words(sibling), lexicon)


def pair_alignment(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Repeat the content words of the second line, each followed by its relation to the words of the first."""
    return _aligned(f"{text}\n{sibling}", text, words(sibling), lexicon)


def _aligned(question: str, text: str, second: list[str], lexicon: Lexicon) -> Task | None:
    present = words(text)
    asked = [word for word in second if word not in _UNALIGNED]
    if not asked:
        return None
    return question, " ".join(f"{word} {word_relation(word, present, lexicon)}" for word in asked)


def word_order(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Put words of the sentence into their order there."""
    present = list(dict.fromkeys(words(text)))
    if len(present) < 4:
        return None
    spots = sorted(draw(rng, range(len(present)), rng.randint(2, 4)))
    ordered = [present[spot] for spot in spots]
    return f"{text}\n{' '.join(draw(rng, ordered, len(ordered)))}", " ".join(ordered)


def polarity(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Does the sentence have a negation?"""
    negative = {"ne", "n"} & set(words(text))
    return text, "négative" if negative else "positive"


def role(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Who does it, to whom? In the active, in the passive, and from both sides of a converse verb."""
    return _voice_role(rng, lexicon) if flip(rng) else _converse_role(rng, lexicon)


def _voice_role(rng: random.Random, lexicon: Lexicon) -> Task:
    agent, patient = draw(rng, [*(definite(noun) for noun in lexicon.roles), *lexicon.names, *lexicon.names[::2]], 2)
    verb, tense, negated = rng.choice(lexicon.social), tense_of(rng), flip(rng)
    if flip(rng):
        text = sentence(agent.text, predicate(verb, agent, tense, negated), patient.text)
    else:
        text = sentence(patient.text, passive(verb, patient, tense, negated), "par", agent.text)
    return text, elide(f"agent {agent.text} patient {patient.text}")


def _converse_role(rng: random.Random, lexicon: Lexicon) -> Task:
    entry = rng.choice(lexicon.converses)
    first, second = draw(rng, lexicon.names, 2)
    goods = indefinite(rng.choice(lexicon.concepts).noun).text if entry.has_thing else ""
    tense, negated = tense_of(rng), rng.random() < 0.3
    sides = [(first, entry.verb, entry.link, second), (second, entry.converse, entry.back, first)]
    subject, verb, link, partner = rng.choice(sides)
    text = sentence(subject.text, predicate(verb, subject, tense, negated), goods, link, partner.text)
    keys = (entry.link, entry.back) if entry.verb == entry.converse else (entry.verb.singular, entry.converse.singular)
    return text, f"{keys[0]} {first.text} {keys[1]} {second.text}"


def rank(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """In which order did they come, from which to which does a quality fall?"""
    people = draw(rng, lexicon.names, rng.choice((2, 2, 3)))
    ascending = flip(rng)
    parts: list[str] = []
    if flip(rng):
        verb, link = rng.choice(lexicon.moving), "après" if ascending else "avant"
        for one, two in pairwise(people):
            parts += ["et"] if parts else []
            parts += [one.text, predicate(verb, one, "past"), link, two.text]
        asked, reverse = rng.choice((("premier", ascending), ("dernier", not ascending)))
    else:
        pair = list(rng.choice(COMPARABLE))
        rng.shuffle(pair)
        for one, two in pairwise(people):
            parts += ["et"] if parts else []
            parts += [one.text, "est", "moins" if ascending else "plus", pair[0].agree(one.feminine), "que", two.text]
        side = rng.randrange(2)
        asked, reverse = pair[side].masculine, ascending != (side == 1)
    ordered = [person.text for person in people]
    return f"{sentence(*parts)}\n{asked}", " ".join(ordered[::-1] if reverse else ordered)


def comparison(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Compare the words of two lines by the properties asked for, each a word: see `_PROPERTIES`."""
    first, second = words(text), words(sibling)
    asked = draw(rng, tuple(_PROPERTIES), rng.randint(1, 3))
    values = (_PROPERTIES[name](first, second, lexicon) for name in asked)
    return f"{text}\n{sibling}\n{' '.join(asked)}", " ".join(values)


def _same(equal: bool) -> str:
    return SAME if equal else OTHER


def _sign(first: list[str], second: list[str], lexicon: Lexicon) -> str:
    return _same(bool(_NEGATION & set(first)) == bool(_NEGATION & set(second)))


def _order(first: list[str], second: list[str], lexicon: Lexicon) -> str:
    shared = [word for word in dict.fromkeys(first) if word in second and word in vocabulary(lexicon)]
    return _same(shared == [word for word in dict.fromkeys(second) if word in shared])


def _missing(first: list[str], second: list[str], lexicon: Lexicon) -> str:
    content = [word for word in second if word not in _UNALIGNED | _NEGATION]
    return next((word for word in content if word_relation(word, first, lexicon) == OTHER), NOTHING)


def _link(first: list[str], second: list[str], lexicon: Lexicon) -> str:
    tags = [word_relation(word, first, lexicon) for word in second if word not in _UNALIGNED]
    return next((tag for tag in tags if tag not in (SAME, OTHER)), NOTHING)


_NEGATION = frozenset(listed("ne n pas ni aucun aucune"))
_PROPERTIES: dict[str, Callable[[list[str], list[str], Lexicon], str]] = {
    "signe": _sign,
    "ordre": _order,
    "nouveau": _missing,
    "perdu": lambda first, second, lexicon: _missing(second, first, lexicon),
    "lien": _link,
}
