"""Phenomena about classes and amounts: negation, hypernymy, adjuncts, cardinals, quantifiers."""

import random
from functools import partial

from toolkit.embedded.candidates import (
    CONTRADICTION,
    ENTAILMENT,
    NEUTRAL,
    Candidate,
    Option,
    Situations,
    draw,
    flip,
    polarity_label,
    relation,
)
from toolkit.embedded.french import (
    ETRE,
    Noun,
    Phrase,
    Tense,
    Verb,
    definite,
    direct_object,
    indefinite,
    none_of,
    predicate,
    sentence,
)
from toolkit.embedded.lexicon import COLOURS, NUMBERS, Concept, Lexicon

_BOTH = (False, True)


def tense_of(rng: random.Random) -> Tense:
    """Present or past, equally often."""
    return "past" if flip(rng) else "present"


def place_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """ "dans la cuisine"."""
    preposition, noun = rng.choice(lexicon.places)
    return f"{preposition} {definite(noun).text}"


def occasion_phrase(rng: random.Random, lexicon: Lexicon) -> str:
    """ "pendant l'orage"."""
    return f"pendant {definite(rng.choice(lexicon.occasions)).text}"


def inclusion(premise: Concept, hypothesis: Concept, premise_negated: bool) -> bool | None:
    """Whether the hypothesis (with the premise's polarity) follows from a change of noun; None when they exclude.

    Negation reverses the direction: "un chien" follows from "un labrador", "pas de labrador" from "pas de chien".
    """
    if not premise.related(hypothesis):
        return None
    if premise.noun == hypothesis.noun:
        return True
    return hypothesis.below(premise) if premise_negated else premise.below(hypothesis)


def nearby(rng: random.Random, concept: Concept, pool: tuple[Concept, ...]) -> list[Concept]:
    """The concept, its relatives (one of those below) and two strangers, one of them of its own level."""
    below = [other for other in pool if other.below(concept)]
    above = [other for other in pool if concept.below(other)]
    strangers = [other for other in pool if not concept.related(other)]
    level = [other for other in strangers if other.level == concept.level] or strangers
    others = [rng.choice(strangers), rng.choice(level)] if strangers else []
    return [concept, *above, *draw(rng, below, min(2, len(below))), *others]


def negation(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """ "Léa dessine un labrador noir": a chien, yes; without negation upwards, with negation downwards."""
    name, verb, tense = rng.choice(lexicon.names), rng.choice(lexicon.creating), tense_of(rng)
    concept, negated = rng.choice(lexicon.concepts), flip(rng)
    first, second = draw(rng, COLOURS, 2)
    colour = first if flip(rng) else None

    def render(noun: Noun, adjective: object, negative: bool) -> str:
        return sentence(name.text, predicate(verb, name, tense, negative), direct_object(noun, negative, adjective))

    options = []
    for other in nearby(rng, concept, lexicon.concepts):
        for adjective in (None, colour or first, second):
            narrower = adjective is not None and adjective != colour
            wider = colour is not None and adjective != colour
            follows = bool(inclusion(concept, other, negated)) and not (wider if negated else narrower)
            for negative in _BOTH:
                label = polarity_label(negative != negated) if follows else NEUTRAL
                signature = (negative, other.level, adjective is not None)
                options.append(Option(label, signature, partial(render, other.noun, adjective, negative)))
    return Candidate(render(concept.noun, colour, negated), tuple(options))


def hypernymy(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Kinds contain and exclude each other: of a gift ("est un violon"), or of who did something ("un chat dort")."""
    return _gift(rng, lexicon) if flip(rng) else _existence(rng, lexicon)


def _gift(rng: random.Random, lexicon: Lexicon) -> Candidate:
    concept, negated = rng.choice(lexicon.concepts), rng.random() < 0.4
    owner, gift = rng.choice(lexicon.names), definite(rng.choice(lexicon.gifts))

    def render(noun: Noun, negative: bool) -> str:
        return sentence(gift.text, "de", owner.text, predicate(ETRE, gift, negated=negative), indefinite(noun).text)

    options = []
    for other in nearby(rng, concept, lexicon.concepts):
        follows = inclusion(concept, other, negated)
        for negative in _BOTH:
            if follows:
                label = polarity_label(negative != negated)
            elif follows is None and not negated:
                label = polarity_label(not negative)
            else:
                label = NEUTRAL
            options.append(Option(label, ("gift", negative, other.level), partial(render, other.noun, negative)))
    return Candidate(render(concept.noun, negated), tuple(options))


def _existence(rng: random.Random, lexicon: Lexicon) -> Candidate:
    pool = lexicon.animals + lexicon.people
    concept, negated, tense = rng.choice(pool), flip(rng), tense_of(rng)
    verb, place = rng.choice(lexicon.living), place_phrase(rng, lexicon)

    def render(noun: Noun, negative: bool) -> str:
        subject = none_of(noun) if negative else indefinite(noun)
        return sentence(subject.text, predicate(verb, subject, tense, negative, particle=""), place)

    options = []
    for other in nearby(rng, concept, pool):
        follows = inclusion(concept, other, negated)
        for negative in _BOTH:
            label = polarity_label(negative != negated) if follows else NEUTRAL
            options.append(Option(label, ("exists", negative, other.level), partial(render, other.noun, negative)))
    return Candidate(render(concept.noun, negated), tuple(options))


def adjuncts(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Dropping an adjunct is safe in a positive sentence, adding one in a negative sentence."""
    subject, friend = draw(rng, lexicon.names, 2)
    verb, tense, negated = rng.choice(lexicon.acting), tense_of(rng), flip(rng)
    adjunct = (place_phrase(rng, lexicon), occasion_phrase(rng, lexicon), f"avec {friend.text}")
    subsets = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    given = set(rng.choice(subsets))

    def render(chosen: tuple[int, ...], negative: bool) -> str:
        verb_group = predicate(verb, subject, tense, negative)
        return sentence(subject.text, verb_group, *(adjunct[index] for index in sorted(chosen, reverse=True)))

    options = []
    for chosen in subsets:
        follows = given <= set(chosen) if negated else set(chosen) <= given
        for negative in _BOTH:
            label = polarity_label(negative != negated) if follows else NEUTRAL
            options.append(Option(label, (negative, chosen), partial(render, chosen, negative)))
    return Candidate(render(tuple(given), negated), tuple(options))


def cardinals(rng: random.Random, lexicon: Lexicon) -> Candidate:
    """Bounds on a number. Every number carries its bound ("au moins trois"), so no reading is left open."""
    form = rng.choice(("exactement", "au moins", "au plus", "plus de", "moins de"))
    number = rng.randint(2 if form != "moins de" else 3, 9)
    tense = tense_of(rng)
    if flip(rng):
        noun = rng.choice(lexicon.animals + lexicon.people).noun
        verb, place = rng.choice(lexicon.living), place_phrase(rng, lexicon)
        head, tail = "", f"{noun.plural} {predicate(verb, Phrase('', noun.feminine, True), tense)} {place}"
    else:
        name, noun = rng.choice(lexicon.names), rng.choice(lexicon.concepts).noun
        head, tail = f"{name.text} {predicate(rng.choice(lexicon.creating), name, tense)}", noun.plural

    def render(bound: str, count: int) -> str:
        return sentence(head, bound, NUMBERS[count], tail)

    premise = _counts(form, number)
    options = [
        Option(relation(premise, _counts(bound, count)), (bound, count), partial(render, bound, count))
        for bound in ("au moins", "au plus", "plus de", "moins de")
        for count in range(3, 9)
    ]
    return Candidate(render(form, number), tuple(options))


def _counts(bound: str, number: int) -> Situations:
    tests = {
        "exactement": number.__eq__,
        "au moins": number.__le__,
        "au plus": number.__ge__,
        "plus de": number.__lt__,
        "moins de": number.__gt__,
    }
    return frozenset(filter(tests[bound], range(13)))


_QUANTIFIERS: dict[str, Situations] = {
    "tous": frozenset({"all"}),
    "la plupart": frozenset({"most", "all"}),
    "certains": frozenset({"few", "most", "all"}),
    "certains pas": frozenset({"none", "few", "most"}),
    "aucun": frozenset({"none"}),
}
# What follows for a wider or narrower noun; pairs that are not listed are left out, for they hang on existence.
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
    """ "Tous les chiens du village dorment": what holds of some, of most, of none, and of which other animals."""
    pool = rng.choice((lexicon.animals, lexicon.people))
    concept, form = rng.choice(pool), rng.choice(tuple(_QUANTIFIERS))
    verb, tense = rng.choice(lexicon.living), tense_of(rng)
    domain = f"de {definite(rng.choice(lexicon.domains)).text}"

    def render(quantifier: str, noun: Noun) -> str:
        return _quantified(quantifier, noun, domain, verb, tense)

    options = []
    for other in nearby(rng, concept, pool):
        for quantifier in _QUANTIFIERS:
            if other.noun == concept.noun:
                label: str | None = relation(_QUANTIFIERS[form], _QUANTIFIERS[quantifier])
            elif concept.below(other):
                label = _WIDER.get((form, quantifier))
            else:
                label = _NARROWER.get((form, quantifier)) if other.below(concept) else None
            if label:
                options.append(Option(label, (quantifier, other.level), partial(render, quantifier, other.noun)))
    return Candidate(render(form, concept.noun), tuple(options))


def _quantified(quantifier: str, noun: Noun, domain: str, verb: Verb, tense: Tense) -> str:
    if quantifier == "aucun":
        subject = none_of(noun)
        return sentence(subject.text, domain, predicate(verb, subject, tense, negated=True, particle=""))
    every, some = ("toutes", "certaines") if noun.feminine else ("tous", "certains")
    opening = {"tous": f"{every} les", "la plupart": "la plupart de les"}.get(quantifier, some)
    subject = Phrase(noun.plural, noun.feminine, plural=True)
    return sentence(opening, noun.plural, domain, predicate(verb, subject, tense, quantifier == "certains pas"))
