"""The generated rows: sizes, balance, disjoint splits, and hypotheses that do not reveal their labels."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from toolkit.errors import DataError
from tools.tiny_llama_fr.candidates import LABELS, relation
from tools.tiny_llama_fr.lexicon import HELD_OUT, LEXICON
from tools.tiny_llama_fr.nli_fr import SIZES, SPLITS, generate
from tools.tiny_llama_fr.phenomena import PHENOMENA
from tools.tiny_llama_fr.phenomena.amounts import _counts
from tools.tiny_llama_fr.vocabulary import Lexicon

ROWS = {split: generate(split) for split in SPLITS}
# Words that both lexicons share: adjectives, numbers, function words and the auxiliaries être and avoir.
SHARED_WORDS = {
    word
    for line in (
        "a ai aucun aucune au avant avec après certains certaines d dans de derrière des devant du est et",
        "exactement la le les l plupart moins n ne ni ont ou par pas pendant plus pour qu que sont sur tous",
        "toutes très un une aussi chez à été deux trois quatre cinq six sept huit neuf dix absent absente",
        "agité agitée blanc blanche brun brune calme coupable faible fermé fermée fort forte grand grande",
        "gris grise innocent innocente invisible jeune joyeuse joyeux lent lente lourd lourde léger légère",
        "neuf neuve noir noire ouvert ouverte pauvre petit petite propre présent présente rapide riche sale",
        "triste usé usée visible âgé âgée",
    )
    for word in line.split()
}


def words(rows: list[dict[str, str]]) -> set[str]:
    texts = " ".join(f"{row['premise']} {row['hypothesis']}" for row in rows)
    return {word.lower() for word in re.findall(r"\w+", texts)}


def is_negative(text: str) -> bool:
    return re.search(r"\b(ne|n)\b", text) is not None


def sentences(split: str) -> set[str]:
    return {text for row in ROWS[split] for text in (row["premise"], row["hypothesis"])}


def lexicon_words(lexicon: Lexicon) -> set[str]:
    concepts = lexicon.concepts + lexicon.people
    nouns = [concept.noun for concept in concepts] + [*lexicon.roles, *lexicon.gifts, *lexicon.openables]
    nouns += [*lexicon.domains, *lexicon.occasions, *(noun for _, noun in lexicon.places)]
    verbs = [*lexicon.creating, *lexicon.living, *lexicon.acting, *lexicon.moving, *lexicon.social]
    verbs += [verb for entry in lexicon.converses for verb in (entry.verb, entry.converse) if verb.singular != "est"]
    forms = {form for noun in nouns for form in (noun.singular, noun.plural)}
    forms |= {form for verb in verbs for form in (verb.singular, verb.plural, verb.participle)}
    return {form.lower() for form in forms | set(lexicon.men) | set(lexicon.women)}


@pytest.mark.parametrize("split", SPLITS)
def test_splits_have_balanced_labels(split: str) -> None:
    rows = ROWS[split]
    assert len(rows) == SIZES[split] == (3000 if split == "train" else 600)
    assert set(Counter(row["label"] for row in rows).values()) == {SIZES[split] // 3}
    assert all(list(row) == ["id", "premise", "hypothesis", "label", "phenomenon"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert rows[0]["id"] == f"nli-fr-{split.replace('_', '-')}-0001"


@pytest.mark.parametrize("split", SPLITS)
def test_three_consecutive_rows_share_a_premise(split: str) -> None:
    rows = ROWS[split]
    triples = [rows[start : start + 3] for start in range(0, len(rows), 3)]
    assert all(len({row["premise"] for row in triple}) == 1 for triple in triples)
    assert all({row["label"] for row in triple} == set(LABELS) for triple in triples)
    assert len({tuple(row["label"] for row in triple) for triple in triples}) == 6
    assert len({triple[0]["premise"] for triple in triples}) == len(triples)


def test_the_seed_decides_every_row() -> None:
    command = "from tools.tiny_llama_fr.nli_fr import generate; print(hash(0) or generate('dev')[:30])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(ROWS["dev"][:30])}
    assert generate("dev", seed=5) != ROWS["dev"]


def test_callers_get_their_own_rows() -> None:
    generate("dev")[0]["label"] = "spoiled"
    assert generate("dev")[0]["label"] in LABELS


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="'validation'") as error:
        generate("validation")
    assert "test_lexical" in (error.value.hint or "")


@pytest.mark.parametrize(("first", "second"), combinations(SPLITS, 2))
def test_no_sentence_occurs_in_two_splits(first: str, second: str) -> None:
    assert sentences(first).isdisjoint(sentences(second))


def test_hypotheses_repeat_neither_premise_nor_row() -> None:
    for rows in ROWS.values():
        assert all(row["premise"] != row["hypothesis"] for row in rows)
        assert len({row["hypothesis"] for row in rows}) == len(rows)


def test_lexical_split_shares_only_common_words() -> None:
    assert words(ROWS["train"]) & words(ROWS["test_lexical"]) <= SHARED_WORDS


def test_lexicons_share_no_noun_name_or_verb() -> None:
    assert lexicon_words(LEXICON).isdisjoint(lexicon_words(HELD_OUT))
    assert not SHARED_WORDS & (lexicon_words(LEXICON) | lexicon_words(HELD_OUT))


@pytest.mark.parametrize("split", SPLITS)
def test_every_phenomenon_occurs_under_every_label(split: str) -> None:
    counts = Counter((row["phenomenon"], row["label"]) for row in ROWS[split])
    assert set(counts) == {(name, label) for name in PHENOMENA for label in LABELS}
    assert len(PHENOMENA) >= 8
    assert min(counts.values()) >= 18


CUES = {
    "negated": r"\b(ne|n|ni|aucune?)\b",
    "after": r"\baprès\b",
    "more": r"\bplus\b",
    "less": r"\bmoins\b",
    "as": r"\baussi\b",
    "passive": r"\bpar\b",
    "all": r"\b(tous|toutes)\b",
    "most": r"\bplupart\b",
    "some": r"\bcertaine?s\b",
    "adjunct": r"\b(dans|pendant|avec)\b",
    "and": r"\bet\b",
}


@pytest.mark.parametrize("cue", CUES)
def test_no_cue_reveals_the_label(cue: str) -> None:
    """Among the hypotheses with a cue, each label accounts for 20% to 45%."""
    counts = Counter(row["label"] for row in ROWS["train"] if re.search(CUES[cue], row["hypothesis"].lower()))
    total = sum(counts.values())
    assert total >= 10
    assert max(counts.values()) / total <= 0.45
    assert min(counts[label] for label in LABELS) / total >= 0.2


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(ngram_range=(1, 2)),
        make_union(TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4))),
    ],
    ids=["words", "words-and-characters"],
)
def test_hypothesis_only_baseline_is_near_chance(vectorizer: object) -> None:
    classifier = make_pipeline(vectorizer, LogisticRegression(max_iter=1000))
    classifier.fit([row["hypothesis"] for row in ROWS["train"]], [row["label"] for row in ROWS["train"]])
    for split in SPLITS[1:]:
        texts = [row["hypothesis"] for row in ROWS[split]]
        assert classifier.score(texts, [row["label"] for row in ROWS[split]]) <= 0.45, split


def test_french_is_elided_and_contracted_everywhere() -> None:
    wrong = re.compile(
        r"\b(de le|de les|à le|à les|ne [aeiouéêè]|de [aeiouéêèâ]|le [aeiouéèê]|la [aeiouéèê]|que [aeiouéèê])"
        r"|d'huit|pas (un|une|des) |d'onze",
        re.IGNORECASE,
    )
    # Negation keeps the indefinite article after être: "n'est pas un chien".
    errors = [text for split in SPLITS for text in sentences(split) if wrong.search(text.replace("est pas un", ""))]
    assert errors == []


def test_bounds_have_their_meaning() -> None:
    assert relation(_counts("exactement", 3), _counts("au moins", 2)) == "entailment"
    assert relation(_counts("au moins", 3), _counts("exactement", 4)) == "neutral"
    assert relation(_counts("au moins", 3), _counts("au plus", 2)) == "contradiction"
    assert relation(_counts("au plus", 3), _counts("au plus", 4)) == "entailment"


def test_negation_reverses_entailment() -> None:
    """Negation reverses entailment: a negative premise entails only hypotheses with more adjuncts."""
    by_phenomenon = defaultdict(list)
    for row in ROWS["train"]:
        by_phenomenon[row["phenomenon"]].append(row)
    negative_premises = [row for row in by_phenomenon["adjuncts"] if is_negative(row["premise"])]
    longer = [row for row in negative_premises if is_negative(row["hypothesis"]) and row["label"] == "entailment"]
    assert longer
    assert all(len(row["hypothesis"].split()) > len(row["premise"].split()) for row in longer)
    positive = [row for row in by_phenomenon["adjuncts"] if not is_negative(row["premise"])]
    shorter = [row for row in positive if row["label"] == "entailment"]
    assert shorter
    assert all(len(row["hypothesis"].split()) < len(row["premise"].split()) for row in shorter)
