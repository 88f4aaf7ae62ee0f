"""French morphology for generated sentences: articles, elision, contraction, agreement, negation and the passive.

Phrases are built without elision ("de le ami"). `sentence` applies it once at the end ("de l'ami").
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Tense = Literal["present", "past"]

_VOWELS = "aâàeéèêëiîïoôuûœ"
# An aspirated h blocks elision, as do the numbers huit and onze. All other words with h in the lexicon elide.
_ASPIRATED = r"(?:(?:hamster|harpe|hameau|homard|hibou|héron|hêtre)s?|hameaux|hiboux|huit|onze)\b"
_ELISION = re.compile(rf"\b(le|la|de|ne|que) (?!{_ASPIRATED})(?=[{_VOWELS}h])", re.IGNORECASE)
_CONTRACTION = re.compile(r"\b(de|à) (le|les)\b", re.IGNORECASE)
_CONTRACTED = {"de le": "du", "de les": "des", "à le": "au", "à les": "aux"}


class Noun(NamedTuple):
    """A common noun. Its singular is also its dictionary form."""

    singular: str
    feminine: bool = False

    @property
    def plural(self) -> str:
        """The plural form."""
        return pluralize(self.singular)


class Phrase(NamedTuple):
    """A noun phrase ready for a sentence, with the features that other words agree with."""

    text: str
    feminine: bool = False
    plural: bool = False


class Adjective(NamedTuple):
    """An adjective, given by its two singular forms."""

    masculine: str
    feminine: str

    def agree(self, feminine: bool, plural: bool = False) -> str:
        """Return the form for a gender and a number."""
        form = self.feminine if feminine else self.masculine
        return pluralize(form) if plural else form


class Verb(NamedTuple):
    """A verb, given by the forms that the generator needs, all in the third person."""

    singular: str
    plural: str
    participle: str
    takes_etre: bool = False


ETRE = Verb("est", "sont", "été")


def pluralize(word: str) -> str:
    """Return the plural of a noun or adjective according to the regular rules of French."""
    if word[-1] in "sxz":
        return word
    if word.endswith("al"):
        return word[:-2] + "aux"
    if word.endswith(("eau", "eu")) or word == "bijou":
        return word + "x"
    return word + "s"


def indefinite(noun: Noun, adjective: Adjective | None = None) -> Phrase:
    """Return an indefinite noun phrase: "un chien noir"."""
    return Phrase(f"{'une' if noun.feminine else 'un'} {_modified(noun, adjective)}", noun.feminine)


def definite(noun: Noun, plural: bool = False) -> Phrase:
    """Return a definite noun phrase: "le chien", "les chiens"."""
    if plural:
        return Phrase(f"les {noun.plural}", noun.feminine, True)
    return Phrase(f"{'la' if noun.feminine else 'le'} {noun.singular}", noun.feminine)


def none_of(noun: Noun) -> Phrase:
    """Return the phrase for an empty set: "aucun chien", "aucune rose"."""
    return Phrase(f"{'aucune' if noun.feminine else 'aucun'} {noun.singular}", noun.feminine)


def direct_object(noun: Noun, negated: bool, adjective: Adjective | None = None) -> str:
    """Return an indefinite direct object: "un chien", which negation turns into "de chien"."""
    return f"de {_modified(noun, adjective)}" if negated else indefinite(noun, adjective).text


def join(phrases: Iterable[Phrase], conjunction: str) -> Phrase:
    """Coordinate phrases: "Léa, Paul et Luc".

    The result is masculine if any phrase is masculine, and singular with "ou".
    """
    items = list(phrases)
    if conjunction == "ni":
        text = "ni " + " ni ".join(item.text for item in items)
    else:
        text = ", ".join(item.text for item in items[:-1]) + f" {conjunction} {items[-1].text}"
    return Phrase(text, all(item.feminine for item in items), conjunction != "ou")


def predicate(
    verb: Verb, subject: Phrase, tense: Tense = "present", negated: bool = False, particle: str = " pas"
) -> str:
    """Return the verb group without its subject: "dort", "ne dort pas", "est arrivée", "n'a pas chanté".

    Args:
        verb: The verb.
        subject: The subject, with which the verb agrees.
        tense: The tense.
        negated: Whether to negate the verb.
        particle: The word after the negated verb. Empty if "aucun" or "ni" already negates the sentence.
    """
    if tense == "present":
        head, tail = (verb.plural if subject.plural else verb.singular), ""
    elif verb.takes_etre:
        head, tail = _be(subject), f" {agree_participle(verb.participle, subject)}"
    else:
        head, tail = ("ont" if subject.plural else "a"), f" {verb.participle}"
    return f"ne {head}{particle}{tail}" if negated else head + tail


def passive(verb: Verb, patient: Phrase, tense: Tense = "present", negated: bool = False) -> str:
    """Return the passive verb group, whose participle agrees with the patient: "n'a pas été invitée"."""
    participle = agree_participle(verb.participle, patient)
    return f"{predicate(ETRE, patient, tense, negated)} {participle}"


def agree_participle(participle: str, subject: Phrase) -> str:
    """Return a past participle in the gender and number of the subject."""
    form = participle + "e" if subject.feminine else participle
    return pluralize(form) if subject.plural else form


def elide(text: str) -> str:
    """Apply elision, then contraction: "de le ami" -> "de l'ami", "de le chien" -> "du chien"."""
    text = _ELISION.sub(lambda match: match.group(1)[:-1] + "'", text)
    return _CONTRACTION.sub(lambda match: _CONTRACTED[match.group(0).lower()], text)


def sentence(*parts: str) -> str:
    """Join the non-empty parts into a sentence with a capital letter and a full stop."""
    text = elide(" ".join(part for part in parts if part))
    return f"{text[0].upper()}{text[1:]}."


def _modified(noun: Noun, adjective: Adjective | None) -> str:
    return f"{noun.singular} {adjective.agree(noun.feminine)}" if adjective else noun.singular


def _be(subject: Phrase) -> str:
    return "sont" if subject.plural else "est"
