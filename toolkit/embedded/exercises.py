"""Word-level exercises for pre-training, each a question and its answer: copying, membership, kinds, numbers, roles.

A model that can do these matches words between two texts; how sentences relate is left to fine-tuning.
"""

import random
import re
from functools import lru_cache
from itertools import pairwise

from toolkit.embedded.candidates import draw, flip
from toolkit.embedded.french import Verb, definite, direct_object, elide, indefinite, join, passive, predicate, sentence
from toolkit.embedded.lexicon import COMPARABLE, NUMBERS, PERSON_OPPOSITES, THING_OPPOSITES
from toolkit.embedded.phenomena.common import occasion_phrase, place_phrase, tense_of
from toolkit.embedded.vocabulary import Concept, Lexicon

Task = tuple[str, str]

YES, NO = "oui", "non"
_WORD = re.compile(r"[\w-]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without apostrophes and stops."""
    return [word.lower() if word[0].isupper() and word.lower() in _SMALL else word for word in _WORD.findall(text)]


_SMALL = frozenset("le la les l un une aucun aucune au tous toutes certains certaines plus moins exactement ni".split())  # noqa: SIM905


@lru_cache(maxsize=4)
def word_groups(lexicon: Lexicon) -> tuple[tuple[str, ...], ...]:
    """The word forms of a lexicon: names, singular and plural nouns, then the forms of verbs."""
    nouns = [concept.noun for concept in lexicon.concepts + lexicon.people]
    nouns += [*lexicon.roles, *lexicon.gifts, *lexicon.openables, *lexicon.domains, *lexicon.occasions]
    nouns += [place for _, place in lexicon.places]
    verbs = _verbs(lexicon)
    return (
        tuple(phrase.text for phrase in lexicon.names),
        tuple(noun.singular for noun in nouns),
        tuple(noun.plural for noun in nouns),
        tuple(verb.singular for verb in verbs),
        tuple(verb.plural for verb in verbs),
        tuple(verb.participle for verb in verbs),
    )


@lru_cache(maxsize=4)
def vocabulary(lexicon: Lexicon) -> tuple[str, ...]:
    """Every word form of a lexicon."""
    return tuple(dict.fromkeys(form for group in word_groups(lexicon) for form in group))


def copying(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Repeat a sentence."""
    return text, text


def word_list(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Repeat words in random order, which no grammar helps to guess."""
    listed = " ".join(draw(rng, vocabulary(lexicon), rng.randint(3, 16)))
    return listed, listed


def membership(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Is this word in the sentence?"""
    present = words(text)
    asked = rng.choice(present) if flip(rng) else rng.choice(vocabulary(lexicon))
    return f"{text}\n{asked}", YES if asked in present else NO


def new_words(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Which words of the second line does the first not have?"""
    present = words(text)
    if flip(rng):
        return f"{text}\n{sibling}", " ".join(word for word in words(sibling) if word not in present) or "rien"
    second = [word for word in present if rng.random() < 0.7]
    for word in draw(rng, vocabulary(lexicon), rng.choice((0, 1, 1, 2))):
        second.insert(rng.randint(0, len(second)), word)
    if flip(rng):
        rng.shuffle(second)
    new = [word for word in second if word not in present]
    return f"{text}\n{' '.join(second)}", " ".join(new) or "rien"


def replaced_word(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Which word was replaced by which?"""
    tokens = text[:-1].split()
    spots = [index for index, token in enumerate(tokens) if token in _content(lexicon)]
    if not spots or rng.random() < 0.2:
        return f"{text}\n{text}", "rien"
    spot = rng.choice(spots)
    other = rng.choice(_alike(tokens[spot], lexicon))
    if other == tokens[spot]:
        return None
    old, tokens[spot] = tokens[spot], other
    return f"{text}\n{' '.join(tokens)}.", f"{old} {other}"


def word_order(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Which of two words comes first?"""
    present = list(dict.fromkeys(words(text)))
    if len(present) < 3:
        return None
    first, second = sorted(draw(rng, range(len(present)), 2))
    pair = [present[first], present[second]]
    if present[first] == present[second]:
        return None
    rng.shuffle(pair)
    return f"{text}\n{' '.join(pair)}", present[first]


def kind_in_sentence(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Which word of the sentence is a kind of this, or what this is a kind of?"""
    noun_forms = _concept_forms(lexicon)
    mentioned = [(word, noun_forms[word]) for word in words(text) if word in noun_forms]
    if not mentioned:
        return None
    _, concept = rng.choice(mentioned)
    pool = [other for other in lexicon.concepts + lexicon.people if other != concept]
    related = [other for other in pool if other.related(concept)]
    asked = rng.choice(related) if related and rng.random() < 0.65 else rng.choice(pool)
    answers = [form for form, other in mentioned if asked.related(other)]
    return f"{text}\n{asked.noun.singular}", answers[0] if answers else "rien"


def kind_of(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """How two kinds relate: the first is narrower, wider, the same, or another."""
    pool = rng.choice((lexicon.concepts, lexicon.concepts, lexicon.people))
    first = rng.choice(pool)
    related = [other for other in pool if other.related(first)]
    second = rng.choice(related) if flip(rng) else rng.choice(pool)
    if second.noun == first.noun:
        answer = "même"
    elif first.below(second):
        answer = "dans"
    else:
        answer = "contient" if second.below(first) else "autre"
    forms = [noun.plural if rng.random() < 0.3 else noun.singular for noun in (first.noun, second.noun)]
    return "\n".join(forms), answer


def word_form(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """The dictionary form of an inflected word."""
    kind = rng.randrange(3)
    if kind == 0:
        verb = rng.choice(_verbs(lexicon))
        return rng.choice((verb.singular, verb.plural, verb.participle, verb.participle + "e")), verb.singular
    if kind == 1:
        noun = rng.choice(lexicon.concepts + lexicon.people).noun
        return rng.choice((noun.singular, noun.plural)), noun.singular
    adjective = rng.choice([item for pair in COMPARABLE + PERSON_OPPOSITES + THING_OPPOSITES for item in pair[:2]])
    return adjective.agree(flip(rng)), adjective.masculine


def opposite(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """The opposite of an adjective in the same gender, or the verb of the other side."""
    if flip(rng):
        first, second, *_ = rng.choice(COMPARABLE + PERSON_OPPOSITES + THING_OPPOSITES)
        feminine = flip(rng)
        pair = [first.agree(feminine), second.agree(feminine)]
    else:
        entry = rng.choice(lexicon.converses)
        ends = ("devant", "derrière") if entry.verb == entry.converse else None
        form = rng.choice(("singular", "participle"))
        pair = list(ends or (getattr(entry.verb, form), getattr(entry.converse, form)))
    rng.shuffle(pair)
    return pair[0], pair[1]


def number_comparison(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Is the first number less than, equal to or more than the second?"""
    first, second = rng.randint(1, 10), rng.randint(1, 10)
    answer = "égal" if first == second else "moins" if first < second else "plus"
    return f"{NUMBERS[first]}\n{NUMBERS[second]}", answer


def number_in_bounds(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Which of the numbers in question are allowed by a bound such as "au moins trois"?"""
    bound, limit = rng.choice(("exactement", "au moins", "au plus", "plus de", "moins de")), rng.randint(2, 9)
    allowed = {
        "exactement": {limit},
        "au moins": set(range(limit, 11)),
        "au plus": set(range(limit + 1)),
        "plus de": set(range(limit + 1, 11)),
        "moins de": set(range(limit)),
    }[bound]
    if flip(rng):
        number = rng.randint(1, 10)
        return f"{bound} {NUMBERS[limit]}\n{NUMBERS[number]}", YES if number in allowed else NO
    listed = [NUMBERS[number] for number in sorted(allowed & set(range(1, 11)))]
    return f"{bound} {NUMBERS[limit]}", " ".join(listed)


def counting(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Count from one number to another."""
    first, last = sorted(draw(rng, range(1, 11), 2))
    order = range(first, last + 1) if flip(rng) else range(last, first - 1, -1)
    counted = [NUMBERS[number] for number in order]
    return f"{counted[0]} {counted[-1]}", " ".join(counted)


def polarity(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Does the sentence have a negation?"""
    negative = {"ne", "n", "aucun", "aucune", "ni"} & set(words(text))
    return text, "négative" if negative else "positive"


def role(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Who does it, to whom? In the active, in the passive, and from the other side of a converse verb."""
    if flip(rng):
        agent, patient = draw(rng, [*(definite(noun) for noun in lexicon.roles), *lexicon.names], 2)
        verb, tense = rng.choice(lexicon.social), tense_of(rng)
        if flip(rng):
            text = sentence(agent.text, predicate(verb, agent, tense), patient.text)
        else:
            text = sentence(patient.text, passive(verb, patient, tense), "par", agent.text)
        asked, answer = rng.choice((("agent", agent), ("patient", patient)))
        return f"{text}\n{asked}", elide(answer.text)
    entry = rng.choice(lexicon.converses)
    first, second = draw(rng, lexicon.names, 2)
    goods = indefinite(rng.choice(lexicon.concepts).noun).text if entry.has_thing else ""
    sides = [(first, entry.verb, entry.link, second), (second, entry.converse, entry.back, first)]
    subject, verb, link, partner = rng.choice(sides)
    text = sentence(subject.text, predicate(verb, subject), goods, link, partner.text)
    keys = ("devant", "derrière") if entry.verb == entry.converse else (entry.verb.singular, entry.converse.singular)
    asked, answer = rng.choice(((keys[0], first), (keys[1], second)))
    return f"{text}\n{asked}", answer.text


def rank(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task | None:
    """Who came first or last, who is the taller or the smaller?"""
    chosen = draw(rng, lexicon.names, rng.choice((2, 2, 3)))
    descending = flip(rng)
    last = len(chosen) - 1
    if flip(rng):
        verb, words_ = rng.choice(lexicon.moving), ("après", "avant") if descending else ("avant", "après")
        parts = [chosen[0].text, predicate(verb, chosen[0], "past"), words_[0], chosen[1].text]
        if last == 2:
            parts += ["et", chosen[1].text, predicate(verb, chosen[1], "past"), words_[0], chosen[2].text]
        asked, wanted = rng.choice((("premier", last if descending else 0), ("dernier", 0 if descending else last)))
        return f"{sentence(*parts)}\n{asked}", chosen[wanted].text
    pair = list(rng.choice(COMPARABLE))
    rng.shuffle(pair)
    parts = []
    for one, two in pairwise(chosen):
        parts += ["et"] if parts else []
        adjective = pair[0].agree(one.feminine)
        parts += [one.text, "est", "moins" if descending else "plus", adjective, "que", two.text]
    side = rng.randrange(2)
    wanted = last if descending != (side == 1) else 0
    return f"{sentence(*parts)}\n{pair[side].masculine}", chosen[wanted].text


def fact(rng: random.Random, lexicon: Lexicon) -> str:
    """A sentence about words: "Un labrador est un chien."."""
    kind = rng.randrange(4)
    if kind == 0:
        first, second, *_ = rng.choice(COMPARABLE + PERSON_OPPOSITES + THING_OPPOSITES)
        return sentence(first.masculine, "est le contraire de", second.masculine)
    if kind == 1:
        verb, person = rng.choice(lexicon.acting), rng.choice(lexicon.names)
        friends = join((person, rng.choice(lexicon.names)), "et")
        return sentence(
            friends.text, predicate(verb, friends), place_phrase(rng, lexicon), occasion_phrase(rng, lexicon)
        )
    concept = rng.choice(lexicon.concepts + lexicon.people)
    if concept.ancestors:
        return sentence(indefinite(concept.noun).text, "est", indefinite(rng.choice(concept.ancestors)).text)
    return sentence("on n'a pas vu", direct_object(concept.noun, True))


@lru_cache(maxsize=4)
def _content(lexicon: Lexicon) -> frozenset[str]:
    return frozenset(vocabulary(lexicon))


def _alike(word: str, lexicon: Lexicon) -> tuple[str, ...]:
    return next(group for group in word_groups(lexicon) if word in group)


@lru_cache(maxsize=4)
def _verbs(lexicon: Lexicon) -> tuple[Verb, ...]:
    pairs = [verb for entry in lexicon.converses for verb in (entry.verb, entry.converse)]
    return tuple(
        dict.fromkeys([*lexicon.creating, *lexicon.living, *lexicon.acting, *lexicon.moving, *lexicon.social, *pairs])
    )


@lru_cache(maxsize=4)
def _concept_forms(lexicon: Lexicon) -> dict[str, Concept]:
    forms = {}
    for concept in lexicon.concepts + lexicon.people:
        forms[concept.noun.singular] = forms[concept.noun.plural] = concept
    return forms
