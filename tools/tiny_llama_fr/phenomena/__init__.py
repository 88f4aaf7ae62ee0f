"""The phenomena of the embedded dataset. Each one draws a premise and offers hypotheses for every label."""

import random
from collections.abc import Callable

from tools.tiny_llama_fr.candidates import Candidate
from tools.tiny_llama_fr.phenomena import amounts, classes, order, roles
from tools.tiny_llama_fr.vocabulary import Lexicon

PHENOMENA: dict[str, Callable[[random.Random, Lexicon], Candidate]] = {
    "negation": classes.negation,
    "hypernymy": classes.hypernymy,
    "adjuncts": classes.adjuncts,
    "antonyms": roles.antonyms,
    "converses": roles.converses,
    "cardinals": amounts.cardinals,
    "quantifiers": amounts.quantifiers,
    "voice": roles.voice,
    "temporal_order": order.temporal_order,
    "comparatives": order.comparatives,
    "coordination": amounts.coordination,
}
