"""French morphology: the errors that a reader would notice first."""

import pytest

from tools.tiny_llama_fr.french import (
    Adjective,
    Noun,
    Phrase,
    Verb,
    direct_object,
    elide,
    indefinite,
    join,
    passive,
    pluralize,
    predicate,
    sentence,
)

LEA, PAUL = Phrase("Léa", feminine=True), Phrase("Paul")
ARRIVER = Verb("arrive", "arrivent", "arrivé", takes_etre=True)
INVITER = Verb("invite", "invitent", "invité")
PRENDRE = Verb("surprend", "surprennent", "surpris")


@pytest.mark.parametrize(
    ("raw", "elided"),
    [
        ("le arbre", "l'arbre"),
        ("la école", "l'école"),
        ("le hôpital", "l'hôpital"),
        ("la harpe", "la harpe"),
        ("de le hamster", "du hamster"),
        ("ne a pas", "n'a pas"),
        ("que Élise", "qu'Élise"),
        ("de Yanis", "de Yanis"),
        ("plus de huit", "plus de huit"),
        ("plus de onze", "plus de onze"),
        ("de un", "d'un"),
    ],
)
def test_elision_before_vowels_and_mute_h_only(raw: str, elided: str) -> None:
    assert elide(raw) == elided


@pytest.mark.parametrize(
    ("raw", "contracted"),
    [
        ("à le marché", "au marché"),
        ("à la gare", "à la gare"),
        ("de le village", "du village"),
        ("la plupart de les chats", "la plupart des chats"),
        ("à le hôpital", "à l'hôpital"),
        ("de le arbre", "de l'arbre"),
    ],
)
def test_prepositions_contract_with_articles(raw: str, contracted: str) -> None:
    assert elide(raw) == contracted


def test_negated_indefinite_objects_take_de() -> None:
    noir = Adjective("noir", "noire")
    assert sentence("Léa", predicate(INVITER, LEA, negated=True), direct_object(Noun("chat"), True, noir)) == (
        "Léa n'invite pas de chat noir."
    )
    assert elide(direct_object(Noun("épagneul"), True)) == "d'épagneul"
    assert direct_object(Noun("guêpe", True), False, noir) == "une guêpe noire"


def test_participles_agree_with_etre_not_with_avoir() -> None:
    both_women = join([LEA, Phrase("Zoé", True)], "et")
    assert predicate(ARRIVER, LEA, "past") == "est arrivée"
    assert predicate(ARRIVER, both_women, "past") == "sont arrivées"
    assert predicate(ARRIVER, join([LEA, PAUL], "et"), "past") == "sont arrivés"
    assert predicate(INVITER, LEA, "past") == "a invité"


def test_a_passive_participle_agrees_with_the_patient() -> None:
    assert elide(passive(INVITER, LEA, "past", negated=True)) == "n'a pas été invitée"
    assert passive(PRENDRE, PAUL) == "est surpris"
    assert passive(PRENDRE, LEA) == "est surprise"


def test_negation_encloses_the_finite_verb() -> None:
    assert elide(predicate(ARRIVER, PAUL, "past", negated=True)) == "n'est pas arrivé"
    assert predicate(INVITER, PAUL, negated=True, particle="") == "ne invite"


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("chien", "chiens"),
        ("cheval", "chevaux"),
        ("bateau", "bateaux"),
        ("bijou", "bijoux"),
        ("siamois", "siamois"),
        ("portail", "portails"),
    ],
)
def test_plurals_follow_rules_and_exceptions(singular: str, plural: str) -> None:
    assert pluralize(singular) == plural


def test_ou_is_singular_and_ni_repeats_itself() -> None:
    assert join([LEA, PAUL], "ou") == Phrase("Léa ou Paul", False, False)
    assert join([LEA, PAUL], "ni") == Phrase("ni Léa ni Paul", False, True)
    assert indefinite(Noun("rose", True)).text == "une rose"
