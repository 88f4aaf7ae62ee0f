"""The phenomena of the embedded data: each draws a premise and offers hypotheses for it under every label."""

import random
from collections.abc import Callable

from toolkit.embedded.candidates import Candidate
from toolkit.embedded.phenomena import amounts, classes, order, roles
from toolkit.embedded.vocabulary import Lexicon

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
