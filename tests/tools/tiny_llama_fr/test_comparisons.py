"""Exercises on two lines: every mark is at the right word, and its verdict is true."""

import random
from collections import Counter
from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.prompts.tokenizer import load_tokenizer
from tools.tiny_llama_fr import comparisons
from tools.tiny_llama_fr.comparisons import PROPERTIES
from tools.tiny_llama_fr.documents import Document, Mark
from tools.tiny_llama_fr.french import Phrase
from tools.tiny_llama_fr.lexicon import LEXICON, NUMBERS
from tools.tiny_llama_fr.packing import encode_document
from tools.tiny_llama_fr.word_forms import words

ROLES = ("précède", "entre", "suit")
TEXT, SIBLING = "Léa dessine un labrador noir.", "Luc a dessiné un chien blanc."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def marked(document: Document) -> list[tuple[str, str]]:
    """Return the words at the marks with their verdicts."""
    return [(words(document.user[:end])[-1], verdict) for end, verdict in document.marks]


def test_marks_relate_words_to_the_first_sentence() -> None:
    document = comparisons.sentences(random.Random(0), LEXICON, TEXT, SIBLING)
    assert document.user == f"{TEXT}\n{SIBLING}"
    assert marked(document) == [("Luc", "autre"), ("dessiné", "même"), ("chien", "contient"), ("blanc", "autre")]
    assert min(end for end, _ in document.marks) > len(TEXT)


def test_word_lists_are_marked_by_membership() -> None:
    for seed in range(100):
        document = comparisons.word_lists(random.Random(seed), LEXICON, "", "")
        first, second = (line.split() for line in document.user.split("\n"))
        assert [word for word, _ in marked(document)] == [word for word in second if word not in ("est", "sont", "été")]
        assert all(verdict == "même" for word, verdict in marked(document) if word in first)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Léa rit.", "Léa ne rit pas.", {"signe": "autre", "nouveau": "rien", "perdu": "rien", "lien": "rien"}),
        ("Léa aide Luc.", "Luc aide Léa.", {"signe": "même", "nouveau": "rien", "lien": "rien"}),
        ("Léa peint un chat.", "Zoé peint un animal.", {"nouveau": "Zoé", "perdu": "Léa", "lien": "contient"}),
        ("Au moins trois chats dorment.", "Au moins six chats dorment.", {"lien": "plus", "nouveau": "rien"}),
    ],
)
def test_properties_name_the_differences_of_two_lines(first: str, second: str, expected: dict[str, str]) -> None:
    assert expected.items() <= {name: compare(first, second, LEXICON) for name, compare in PROPERTIES.items()}.items()
    for seed in range(20):
        document = comparisons.single_property(random.Random(seed), LEXICON, first, second)
        assert document.answer == PROPERTIES[document.system](first, second, LEXICON)


def test_a_change_of_voice_keeps_the_roles() -> None:
    seen = set()
    for seed in range(400):
        document = comparisons.roles(random.Random(seed), LEXICON, "", "")
        first, second = (set(words(line)) for line in document.user.split("\n"))
        verdict = document.closing[-1]
        if verdict != "autre":
            # Both lines name the same two people.
            assert document.closing[1] == "rien" or document.closing[1] in ("par", "à", "de", "chez", "pour")
        lines = document.user.replace("n'est pas", "est").split("\n")
        if lines[0] == lines[1]:
            assert verdict == "même"
        if " par " in lines[0] and " par " in lines[1] and first - {"ne", "n", "pas"} == second - {"ne", "n", "pas"}:
            subject = [line.split(" est ")[0].split(" a été ")[0].split(" n'a ")[0].lower() for line in lines]
            assert (subject[0] == subject[1]) == (verdict == "même")
            seen.add(verdict)
    assert seen == {"même", "contraire"}


def test_roles_by_steps_lead_to_the_verdict() -> None:
    seen = Counter()
    for seed in range(400):
        document = comparisons.roles_by_steps(random.Random(seed), LEXICON, "", "")
        end_of_first, *marks = document.marks
        assert document.user[end_of_first.end - 2 : end_of_first.end] == ".\n"
        roles = [verdict for _, verdict in marks if verdict in ROLES]
        verdict = document.closing[-1]
        assert len(roles) == (1 if verdict == "autre" else 2)
        if verdict != "autre":
            # The verdict "précède" at a full stop means that the person who was named first has the leading role.
            leads_before = ROLES.index(roles[0]) < ROLES.index(roles[1])
            assert (leads_before == (document.closing[0] == "précède")) == (verdict == "même")
        seen[verdict, document.closing[0]] += 1
    assert len(seen) == 6
    assert min(seen.values()) > 20


def test_the_second_known_person_gives_the_verdict() -> None:
    seen = Counter()
    for seed in range(400):
        by_steps = comparisons.roles_by_steps(random.Random(seed), LEXICON, "", "")
        at_once = comparisons.roles_at_once(random.Random(seed), LEXICON, "", "")
        verdict = by_steps.closing[-1]
        assert at_once._replace(marks=by_steps.marks) == by_steps
        changed = [pair for pair in zip(by_steps.marks, at_once.marks, strict=True) if pair[0] != pair[1]]
        if verdict == "autre":
            assert not changed
        else:
            ends = [mark.end for mark in by_steps.marks[1:] if mark.verdict in ROLES]
            assert [after for _, after in changed] == [Mark(max(ends), verdict)]
        seen[verdict] += 1
    assert min(seen[verdict] for verdict in ("même", "contraire", "autre")) > 50


def test_names_match_whole_words() -> None:
    people = (Phrase("Julie", True), Phrase("Julien"))
    assert comparisons._named_first("Julien aide Julie.", people) == "suit"
    assert comparisons._named_first("Julie aide Julien.", people) == "précède"


def test_the_leading_person_acts_or_comes_earlier() -> None:
    seen = Counter()
    for seed in range(400):
        document = comparisons.roles_by_steps(random.Random(seed), LEXICON, "", "")
        first = document.user.split("\n")[0]
        for sign, orientation in ((" par ", "suit"), (" avant ", "précède"), (" après ", "suit")):
            if sign in first and " et " not in first:
                assert document.marks[0].verdict == orientation
                seen[sign] += 1
    assert min(seen.values()) > 10


def test_the_middle_person_is_between() -> None:
    seen = Counter()
    for seed in range(600):
        document = comparisons.roles_by_steps(random.Random(seed), LEXICON, "", "")
        first = document.user.split("\n")[0]
        if " et " not in first:
            continue
        verdicts = dict(marked(document))
        if " après " in first:
            middle = words(first.split(" a ")[0].split(" est ")[0])[-1]
        else:
            middle = words(first.split(" et ")[1].split(" est ")[0])[-1]
        if middle in verdicts:
            assert verdicts[middle] == "entre"
            seen["après" in first] += 1
    assert min(seen.values()) > 20


def test_bounds_apply_to_the_other_number() -> None:
    seen = Counter()
    allowed = {"exactement": int.__eq__, "au moins": int.__ge__, "au plus": int.__le__}
    for seed in range(200):
        document = comparisons.bounded_numbers(random.Random(seed), LEXICON, "", "")
        lines = [line.lower() for line in document.user.split("\n")]
        bounds = [next(bound for bound in allowed if bound in line) for line in lines]
        numbers = [
            next(NUMBERS.index(word) for word in words(line.split(bound)[1]))
            for line, bound in zip(lines, bounds, strict=True)
        ]
        verdict = next(verdict for word, verdict in marked(document) if word == NUMBERS[numbers[1]])
        assert (verdict == "oui") == allowed[bounds[0]](numbers[1], numbers[0])
        assert (document.closing[-1] == "oui") == allowed[bounds[1]](numbers[0], numbers[1])
        seen[verdict, document.closing[-1]] += 1
    assert set(seen) == {("oui", "oui"), ("oui", "non"), ("non", "oui"), ("non", "non")}


def test_first_sentence_ends_with_its_polarity() -> None:
    for text, verdict in (("Léa rit.", "rien"), ("Léa ne rit pas.", "pas")):
        document = comparisons.sentences_with_polarity(random.Random(0), LEXICON, text, SIBLING)
        assert document.marks[0] == Mark(len(text) + 1, verdict)
        assert document.marks[1:] == comparisons.sentences(random.Random(0), LEXICON, text, SIBLING).marks


def test_verdicts_are_targets_at_their_tokens(tokenizer: Any) -> None:
    """A mark is at the last token of its word, and a closing verdict is after the text."""
    document = Document(
        "Léa rit.\nSolène rit.", "", marks=(Mark(15, "autre"), Mark(19, "même")), closing=("même", "", "Léa")
    )
    ids, targets = encode_document(tokenizer, document)
    predicted = [
        (tokenizer.decode(ids[: position + 1]).rpartition("\n")[2], tokenizer.decode(token))
        for position, token, _ in targets
    ]
    assert predicted == [
        ("Solène", " autre"),
        ("Solène rit", " même"),
        ("Solène rit.", " même"),
        ("Solène rit.<|eot_id|><|start_header_id|>", " Léa"),
    ]
    assert {weight for _, _, weight in targets} == {1.0}


def test_the_prompt_end_predicts_the_answer(tokenizer: Any) -> None:
    ids, targets = encode_document(tokenizer, Document("Léa rit.", "oui", system="mot"))
    answer = [
        (tokenizer.decode(ids[position]), tokenizer.decode(token)) for position, token, weight in targets if weight == 1
    ]
    assert answer == [("\n\n", "oui"), ("oui", "<|eot_id|>")]
    assert all(ids[position + 1] == token for position, token, _ in targets)
