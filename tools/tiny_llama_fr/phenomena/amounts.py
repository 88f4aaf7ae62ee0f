"""Phenomena of amounts and logical words: cardinals, quantifiers and coordination."""

import random
from collections.abc import Callable
from functools import partial
from itertools import permutations, product

from tools.tiny_llama_fr.candidates import (
    CONTRADICTION,
    ENTAILMENT,
    NEUTRAL,
    Candidate,
    Option,
    Situations,
    draw,
    flip,
    relation,
)
from tools.tiny_llama_fr.french import (
    Noun,
    Phrase,
    Tense,
    Verb,
    definite,
    direct_object,
    join,
    none_of,
    predicate,
    sentence,
)
from tools.tiny_llama_fr.lexicon import NUMBERS
from tools.tiny_llama_fr.phenomena.common import BOTH, nearby, of_any_level, place_phrase, tense_of, unrelated
from tools.tiny_llama_fr.vocabulary import Lexicon

BOUNDS: dict[str, Callable[[int, int], bool]] = {
    "exactement": int.__eq__,
    "au moins": int.__ge__,
    "au plus": int.__le__,
}
"""For each bound, a predicate of a number and a limit: does the bound on the limit allow the number?"""


def cardinals(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw bounds on a number. Each number has an explicit bound ("au moins trois"), so no sentence is ambiguous."""
    form, number = rng.choice(tuple(BOUNDS)), rng.randint(2, 9)
    tense = tense_of(rng)
    if flip(rng):
        first = rng.choice(lexicon.animals + lexicon.people)
        strangers = [concept for concept in lexicon.animals + lexicon.people if not concept.is_related_to(first)]
        nouns = [first.noun, rng.choice(strangers).noun]
        verb, place = rng.choice(lexicon.living), place_phrase(rng, lexicon)
        head = ""
        tails = [f"{noun.plural} {predicate(verb, Phrase('', noun.feminine, True), tense)} {place}" for noun in nouns]
    else:
        name, verb = rng.choice(lexicon.names), rng.choice(lexicon.creating)
        head = f"{name.text} {predicate(verb, name, tense)}"
        tails = [concept.noun.plural for concept in unrelated(rng, lexicon)[:2]]

    def render(bound: str, count: int, tail: str) -> str:
        return sentence(head, bound, NUMBERS[count], tail)

    premise = _counts(form, number)
    options = []
    for bound, count in product(("au moins", "au plus"), range(3, 9)):
        label = relation(premise, _counts(bound, count))
        options.append(Option(label, (bound, count), partial(render, bound, count, tails[0])))
        # The same bound on another noun is always neutral, so every signature occurs with this label.
        options.append(Option(NEUTRAL, (bound, count), partial(render, bound, count, tails[1])))
    return Candidate(render(form, number, tails[0]), tuple(options))


def _counts(bound: str, number: int) -> Situations:
    # Bounds are at most 9, so larger counts than 12 would not change any relation.
    return frozenset(count for count in range(13) if BOUNDS[bound](count, number))


_QUANTIFIERS: dict[str, Situations] = {
    "tous": frozenset({"all"}),
    "la plupart": frozenset({"most", "all"}),
    "certains": frozenset({"few", "most", "all"}),
    "certains pas": frozenset({"none", "few", "most"}),
    "aucun": frozenset({"none"}),
}
# The labels of (premise quantifier, hypothesis quantifier) if the hypothesis has a wider or a narrower noun. Missing
# pairs are omitted because their label depends on whether the noun has any instances.
_WIDER = {
    ("tous", "tous"): NEUTRAL,
    ("tous", "certains"): ENTAILMENT,
    ("tous", "aucun"): CONTRADICTION,
    ("la plupart", "certains"): ENTAILMENT,
    ("la plupart", "la plupart"): NEUTRAL,
    ("la plupart", "aucun"): CONTRADICTION,
    ("certains", "certains"): ENTAILMENT,
    ("certains", "aucun"): CONTRADICTION,
    ("certains", "tous"): NEUTRAL,
    ("certains pas", "certains pas"): ENTAILMENT,
    ("certains pas", "tous"): CONTRADICTION,
    ("certains pas", "aucun"): NEUTRAL,
    ("aucun", "aucun"): NEUTRAL,
    ("aucun", "certains"): NEUTRAL,
}
_NARROWER = {
    ("tous", "tous"): ENTAILMENT,
    ("tous", "certains pas"): CONTRADICTION,
    ("la plupart", "la plupart"): NEUTRAL,
    ("certains", "certains"): NEUTRAL,
    ("certains", "aucun"): NEUTRAL,
    ("certains", "tous"): NEUTRAL,
    ("certains pas", "certains pas"): NEUTRAL,
    ("certains pas", "tous"): NEUTRAL,
    ("aucun", "aucun"): ENTAILMENT,
    ("aucun", "certains"): CONTRADICTION,
}


def quantifiers(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw quantifiers: "Tous les chiens du village dorment" with some, most or none, and other animals."""
    pool = rng.choice((lexicon.animals, lexicon.animals, lexicon.people))
    concept, form = of_any_level(rng, pool), rng.choice(tuple(_QUANTIFIERS))
    verb, tense = rng.choice(lexicon.living), tense_of(rng)
    here, elsewhere = (f"de {definite(noun).text}" for noun in draw(rng, lexicon.domains, 2))

    def render(quantifier: str, noun: Noun, domain: str) -> str:
        return _quantified(quantifier, noun, domain, verb, tense)

    # The top level has no wider noun, so some labels could not occur for it. It is used only in premises.
    top = max(other.level for other in pool)
    options = []
    for other, quantifier in product(nearby(rng, concept, pool), _QUANTIFIERS):
        label: str | None = None
        if other.noun == concept.noun:
            label = relation(_QUANTIFIERS[form], _QUANTIFIERS[quantifier])
        elif concept.is_below(other):
            label = _WIDER.get((form, quantifier))
        elif other.is_below(concept):
            label = _NARROWER.get((form, quantifier))
        if other.level < top:
            signature = (quantifier, other.level)
            options.append(Option(NEUTRAL, signature, partial(render, quantifier, other.noun, elsewhere)))
            if label:
                options.append(Option(label, signature, partial(render, quantifier, other.noun, here)))
    return Candidate(render(form, concept.noun, here), tuple(options))


def _quantified(quantifier: str, noun: Noun, domain: str, verb: Verb, tense: Tense) -> str:
    if quantifier == "aucun":
        subject = none_of(noun)
        return sentence(subject.text, domain, predicate(verb, subject, tense, negated=True, particle=""))
    every, some = ("toutes", "certaines") if noun.feminine else ("tous", "certains")
    opening = {"tous": f"{every} les", "la plupart": "la plupart de les"}.get(quantifier, some)
    subject = Phrase(noun.plural, noun.feminine, plural=True)
    return sentence(opening, noun.plural, domain, predicate(verb, subject, tense, quantifier == "certains pas"))


def coordination(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Draw et, ou and ni with three subjects or three objects. "Ou" occurs only in premises."""
    return _coordinated_subjects(rng, lexicon) if flip(rng) else _coordinated_objects(rng, lexicon)


_TRUTHS = tuple(product(BOTH, repeat=3))


def _holds(form: str, members: tuple[int, ...]) -> Situations:
    test = {"et": all, "ou": any, "ni": lambda values: not any(values), "non": lambda values: not any(values)}
    return frozenset(values for values in _TRUTHS if test[form]([values[index] for index in members]))


_PREMISES = [("et", 2), ("et", 3), ("ou", 2), ("ni", 2), ("ni", 3), ("et", 1), ("non", 1)]
_HYPOTHESES = [("et", 1), ("non", 1), ("et", 2), ("ni", 2)]


def _coordination_options(
    premise: Situations, render: Callable[[str, tuple[int, ...]], str], kind: str
) -> tuple[Option, ...]:
    options = []
    for form, size in _HYPOTHESES:
        for members in permutations(range(3), size):
            label = relation(premise, _holds(form, members))
            options.append(Option(label, (kind, form, size), partial(render, form, members)))
    return tuple(options)


def _coordinated_subjects(rng: random.Random, lexicon: Lexicon) -> Candidate:
    people = draw(rng, lexicon.names, 3)
    verb, tense, place = rng.choice(lexicon.acting), tense_of(rng), place_phrase(rng, lexicon)

    def render(form: str, members: tuple[int, ...]) -> str:
        chosen = [people[index] for index in members]
        subject = chosen[0] if len(chosen) == 1 else join(chosen, form)
        group = predicate(verb, subject, tense, form in ("ni", "non"), particle=" pas" if form == "non" else "")
        return sentence(subject.text, group, place)

    form, size = rng.choice(_PREMISES)
    members = tuple(range(size))
    return Candidate(render(form, members), _coordination_options(_holds(form, members), render, "subject"))


def _coordinated_objects(rng: random.Random, lexicon: Lexicon) -> Candidate:
    name, verb, tense = rng.choice(lexicon.names), rng.choice(lexicon.creating), tense_of(rng)
    things = [concept.noun for concept in unrelated(rng, lexicon)]

    def render(form: str, members: tuple[int, ...]) -> str:
        chosen = [things[index] for index in members]
        group = predicate(verb, name, tense, form in ("ni", "non"), particle=" pas" if form == "non" else "")
        if form == "ni":
            return sentence(name.text, group, " ".join(f"ni {noun.singular}" for noun in chosen))
        goods = [Phrase(direct_object(noun, form == "non")) for noun in chosen]
        return sentence(name.text, group, goods[0].text if len(goods) == 1 else join(goods, form).text)

    form, size = rng.choice(_PREMISES)
    members = tuple(range(size))
    return Candidate(render(form, members), _coordination_options(_holds(form, members), render, "object"))
