"""Exercises on single words: kinds, forms, opposites and numbers. An answer repeats each word and then describes it."""

import random

from tools.tiny_llama_fr.candidates import draw, flip
from tools.tiny_llama_fr.exercises import NO, YES, Task
from tools.tiny_llama_fr.french import definite, indefinite, join, predicate, sentence
from tools.tiny_llama_fr.lexicon import NUMBERS
from tools.tiny_llama_fr.phenomena.amounts import BOUNDS
from tools.tiny_llama_fr.phenomena.common import occasion_phrase, place_phrase
from tools.tiny_llama_fr.vocabulary import Lexicon
from tools.tiny_llama_fr.word_forms import OPPOSITES, verbs_of, word_relation


def kinds(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask how the first kind relates to the second: it is within it, contains it, is the same or another kind."""
    questions, answers = [], []
    for _ in range(rng.randint(1, 4)):
        pool = rng.choice((lexicon.concepts, lexicon.concepts, lexicon.people))
        first = rng.choice(pool)
        second = rng.choice(
            [concept for concept in pool if concept.is_related_to(first)] if rng.random() < 0.6 else pool
        )
        forms = [noun.plural if rng.random() < 0.3 else noun.singular for noun in (first.noun, second.noun)]
        questions.append(" ".join(forms))
        answers += [*forms, word_relation(forms[0], forms[1:], lexicon)]
    return "\n".join(questions), " ".join(answers)


def dictionary_forms(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask for the dictionary forms of inflected words."""
    questions, answers = [], []
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(3)
        if kind == 0:
            verb = rng.choice(verbs_of(lexicon))
            questions.append(rng.choice((verb.singular, verb.plural, verb.participle, verb.participle + "e")))
            answers += [questions[-1], verb.singular]
        elif kind == 1:
            noun = rng.choice(lexicon.concepts + lexicon.people).noun
            questions.append(rng.choice((noun.singular, noun.plural)))
            answers += [questions[-1], noun.singular]
        else:
            adjective = rng.choice(rng.choice(OPPOSITES)[:2])
            questions.append(adjective.agree(flip(rng)))
            answers += [questions[-1], adjective.masculine]
    return " ".join(questions), " ".join(answers)


def opposites(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask for opposite adjectives in the same gender and for converse verbs."""
    questions, answers = [], []
    for _ in range(rng.randint(1, 4)):
        if flip(rng):
            first, second, *_ = rng.choice(OPPOSITES)
            feminine = flip(rng)
            pair = [first.agree(feminine), second.agree(feminine)]
        else:
            entry = rng.choice(lexicon.converses)
            form = rng.choice(("singular", "participle"))
            same = entry.verb == entry.converse
            pair = [entry.link, entry.back] if same else [getattr(entry.verb, form), getattr(entry.converse, form)]
        rng.shuffle(pair)
        questions.append(pair[0])
        answers += pair
    return " ".join(questions), " ".join(answers)


def comparisons(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask whether the first number is less than, equal to or more than the second."""
    questions, answers = [], []
    for _ in range(rng.randint(1, 5)):
        pair = [rng.choice(NUMBERS[2:11]) for _ in range(2)]
        questions.append(" ".join(pair))
        answers += [*pair, word_relation(pair[0], pair[1:], lexicon)]
    return "\n".join(questions), " ".join(answers)


def bounds(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Ask which numbers a bound such as "au moins trois" allows."""
    bound, limit = rng.choice(tuple(BOUNDS)), rng.randint(2, 9)
    numbers = draw(rng, range(1, 11), rng.randint(1, 6))
    question = f"{bound} {NUMBERS[limit]}\n{' '.join(NUMBERS[number] for number in numbers)}"
    verdicts = (f"{NUMBERS[number]} {YES if BOUNDS[bound](number, limit) else NO}" for number in numbers)
    return question, " ".join(verdicts)


def counting(rng: random.Random, lexicon: Lexicon, text: str, sibling: str) -> Task:
    """Count from one number to another."""
    first, last = sorted(draw(rng, range(1, 11), 2))
    order = range(first, last + 1) if flip(rng) else range(last, first - 1, -1)
    counted = [NUMBERS[number] for number in order]
    return f"{counted[0]} {counted[-1]}", " ".join(counted)


def fact(rng: random.Random, lexicon: Lexicon) -> str:
    """Draw a fact about words or names, such as "Un labrador est un chien."."""
    kind = rng.randrange(4)
    if kind == 0:
        first, second, *_ = rng.choice(OPPOSITES)
        return sentence(first.masculine, "est le contraire de", second.masculine)
    if kind == 1:
        friends = join(draw(rng, lexicon.names, 2), "et")
        verb = predicate(rng.choice(lexicon.acting), friends)
        return sentence(friends.text, verb, place_phrase(rng, lexicon), occasion_phrase(rng, lexicon))
    concept = rng.choice(lexicon.concepts + lexicon.people)
    if concept.ancestors:
        return sentence(indefinite(concept.noun).text, "est", indefinite(rng.choice(concept.ancestors)).text)
    return sentence(definite(concept.noun, plural=True).text, "existent")
