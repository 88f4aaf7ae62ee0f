"""The word forms of a lexicon and the relations between words, the subject of the pre-training exercises."""

import re
from functools import lru_cache

from tools.tiny_llama_fr.french import Adjective, Verb
from tools.tiny_llama_fr.lexicon import COLORS, COMPARABLE, NUMBERS, PERSON_OPPOSITES, THING_OPPOSITES
from tools.tiny_llama_fr.vocabulary import Concept, Lexicon, split_words

SAME, WITHIN, CONTAINS, OPPOSITE, COMPLEMENT, MORE, LESS, OTHER = RELATIONS = split_words(
    "même dans contient contraire complément plus moins autre"
)
OPPOSITES = COMPARABLE + PERSON_OPPOSITES + THING_OPPOSITES

WORD = re.compile(r"[\w-]+")
NEGATION = frozenset(split_words("ne n pas ni aucun aucune"))
_FUNCTION_PAIRS = (("avant", "après"), ("devant", "derrière"), ("plus", "moins"))
# Words with a capital letter only at the start of a sentence.
_NOT_NAMES = frozenset(
    split_words("le la les l un une aucun aucune au tous toutes certains certaines plus moins exactement ni")
)


def words(text: str) -> list[str]:
    """Return the words of a text without punctuation. Only names keep their capital letter."""
    return [plain_word(word) for word in WORD.findall(text)]


def plain_word(word: str) -> str:
    """Return a word as in the middle of a sentence, where only names have a capital letter."""
    return word.lower() if word.lower() in _NOT_NAMES else word


@lru_cache(maxsize=4)
def word_groups(lexicon: Lexicon) -> tuple[tuple[str, ...], ...]:
    """Return the word forms of a lexicon: names, singular and plural nouns, then the forms of verbs."""
    nouns = [concept.noun for concept in lexicon.concepts + lexicon.people]
    nouns += [*lexicon.roles, *lexicon.gifts, *lexicon.openables, *lexicon.domains, *lexicon.occasions]
    nouns += [place for _, place in lexicon.places]
    verbs = verbs_of(lexicon)
    return (
        tuple(phrase.text for phrase in lexicon.names),
        tuple(noun.singular for noun in nouns),
        tuple(noun.plural for noun in nouns),
        tuple(verb.singular for verb in verbs),
        tuple(verb.plural for verb in verbs),
        tuple(verb.participle for verb in verbs),
    )


def is_negated(text: str) -> bool:
    """Return whether the sentence is negated."""
    return not NEGATION.isdisjoint(words(text))


@lru_cache(maxsize=4)
def vocabulary(lexicon: Lexicon) -> tuple[str, ...]:
    """Return every word form of a lexicon."""
    return tuple(dict.fromkeys(form for group in word_groups(lexicon) for form in group))


@lru_cache(maxsize=4)
def verbs_of(lexicon: Lexicon) -> tuple[Verb, ...]:
    """Return the verbs of a lexicon without duplicates."""
    pairs = [verb for entry in lexicon.converses for verb in (entry.verb, entry.converse)]
    kinds = (lexicon.creating, lexicon.living, lexicon.acting, lexicon.moving, lexicon.social, pairs)
    return tuple(dict.fromkeys(verb for kind in kinds for verb in kind))


def word_relation(word: str, others: list[str], lexicon: Lexicon) -> str:
    """Return the closest relation of a word to any of the other words, as one of `RELATIONS`.

    Exactly one of two complementary adjectives (ouvert, fermé) holds, but at most one of two opposites.
    """
    if word in others:
        return SAME
    lemmas, concepts, opposites = _lemmas(lexicon), _concepts(lexicon), _opposites(lexicon)
    lemma = lemmas.get(word, word)
    other_lemmas = {lemmas.get(other, other) for other in others}
    if lemma in other_lemmas:
        return SAME
    if lemma in opposites and not other_lemmas.isdisjoint(opposites[lemma]):
        return COMPLEMENT if lemma in _complementary() else OPPOSITE
    if lemma in concepts:
        for other in filter(None, map(concepts.get, other_lemmas)):
            if concepts[lemma].is_related_to(other):
                return WITHIN if concepts[lemma].is_below(other) else CONTAINS
    if word in NUMBERS[2:]:
        for number in filter(NUMBERS[2:].__contains__, others):
            return MORE if NUMBERS.index(word) > NUMBERS.index(number) else LESS
    return OTHER


@lru_cache(maxsize=4)
def _lemmas(lexicon: Lexicon) -> dict[str, str]:
    lemmas: dict[str, str] = {}
    for verb in verbs_of(lexicon):
        for form in (verb.plural, *_inflected(Adjective(verb.participle, verb.participle + "e"))):
            lemmas[form] = verb.singular
    for adjective in [*COLORS, *(member for pair in OPPOSITES for member in pair[:2] if isinstance(member, Adjective))]:
        lemmas |= dict.fromkeys(_inflected(adjective), adjective.masculine)
    # Nouns come last to take precedence over verbs with the same form, such as surprise.
    lemmas |= {form: form for form in word_groups(lexicon)[1]}
    lemmas |= dict(zip(word_groups(lexicon)[2], word_groups(lexicon)[1], strict=True))
    return lemmas


def _inflected(adjective: Adjective) -> list[str]:
    return [adjective.agree(feminine, plural) for feminine in (False, True) for plural in (False, True)]


@lru_cache(maxsize=4)
def _concepts(lexicon: Lexicon) -> dict[str, Concept]:
    return {concept.noun.singular: concept for concept in lexicon.concepts + lexicon.people}


@lru_cache(maxsize=4)
def _opposites(lexicon: Lexicon) -> dict[str, set[str]]:
    pairs = [*_FUNCTION_PAIRS, *((pair[0].masculine, pair[1].masculine) for pair in OPPOSITES)]
    pairs += [(entry.verb.singular, entry.converse.singular) for entry in lexicon.converses]
    opposites: dict[str, set[str]] = {}
    for first, second in pairs:
        if first != second:
            opposites.setdefault(first, set()).add(second)
            opposites.setdefault(second, set()).add(first)
    return opposites


@lru_cache(maxsize=1)
def _complementary() -> frozenset[str]:
    pairs = (pair for pair in PERSON_OPPOSITES + THING_OPPOSITES if pair[2])
    return frozenset(adjective.masculine for pair in pairs for adjective in pair[:2])
