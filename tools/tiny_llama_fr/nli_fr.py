"""French natural language inference pairs, generated: deterministic, balanced, and split without overlap.

Each premise comes with three hypotheses, one per label, as in XNLI. A phenomenon offers many hypotheses for a premise;
the generator keeps those that leave every signature (polarity, quantifier, level of the noun ...) equally frequent
under the three labels, so that a hypothesis alone says nothing about its label.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import NamedTuple

from toolkit.errors import DataError
from tools.tiny_llama_fr.candidates import LABELS, Candidate, Option
from tools.tiny_llama_fr.lexicon import HELD_OUT, LEXICON
from tools.tiny_llama_fr.phenomena import PHENOMENA
from tools.tiny_llama_fr.vocabulary import Lexicon

SPLITS: tuple[str, ...] = ("train", "dev", "test", "test_lexical")
DEFAULT_SEED = 2026
SIZES = {"train": 3000, "dev": 600, "test": 600, "test_lexical": 600}

# Premises tried for each one that is kept: more make the signatures' balance finer and generation slower.
_TRIES = 6


class Triple(NamedTuple):
    """A premise and its hypotheses in the order of `LABELS`, with their signatures."""

    premise: str
    hypotheses: tuple[str, ...]
    signatures: tuple[tuple[Hashable, ...], ...]


def generate(split: str, seed: int = DEFAULT_SEED) -> list[dict[str, str]]:
    """Return the rows of a split: `id`, `premise`, `hypothesis`, `label`, `phenomenon`.

    Three consecutive rows share a premise, one per label, in an order that varies.

    Args:
        split: one of `SPLITS`; `test_lexical` uses nouns, names and verbs of no other split.
        seed: decides every row; splits of one seed do not overlap.

    Raises:
        DataError: there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"embedded:nli-fr has no split {split!r}.", hint=f"Its splits: {', '.join(SPLITS)}.")
    return [dict(row) for row in _splits(seed)[split]]


@lru_cache(maxsize=2)
def _splits(seed: int) -> dict[str, list[dict[str, str]]]:
    # The small splits come first: training, which has far more room, then avoids every sentence of theirs.
    used: set[str] = set()
    rows = {}
    for split in ("test_lexical", "test", "dev", "train"):
        rng = random.Random(f"nli-fr {split} {seed}")
        triples = _triples(rng, HELD_OUT if split == "test_lexical" else LEXICON, SIZES[split] // 3, used)
        rows[split] = _rows(rng, split, triples)
    return rows


def _triples(rng: random.Random, lexicon: Lexicon, count: int, used: set[str]) -> list[tuple[str, Triple]]:
    """Return `count` triples, the phenomena in turn and then shuffled; their sentences are added to `used`."""
    balance: dict[str, dict[str, Counter]] = {name: {label: Counter() for label in LABELS} for name in PHENOMENA}
    names = list(PHENOMENA)
    triples = []
    for index in range(count):
        name = names[index % len(names)]
        triple = _best(rng, PHENOMENA[name], lexicon, balance[name], used)
        for label, signature in zip(LABELS, triple.signatures, strict=True):
            balance[name][label][signature] += 1
        used.update((triple.premise, *triple.hypotheses))
        triples.append((name, triple))
    rng.shuffle(triples)
    return triples


def _best(rng: random.Random, phenomenon: Callable, lexicon: Lexicon, balance: dict, used: set[str]) -> Triple:
    best: tuple[float, Triple] | None = None
    tries = 0
    while best is None or tries < _TRIES:
        tries += 1
        candidate = phenomenon(rng, lexicon)
        if candidate.premise in used:
            continue
        scored = _choose(rng, candidate, balance, used)
        if scored and (best is None or scored[0] < best[0]):
            best = scored
    return best[1]


def _choose(rng: random.Random, candidate: Candidate, balance: dict, used: set[str]) -> tuple[float, Triple] | None:
    """Choose the hypotheses whose signatures their labels lack most, and return them with the imbalance they add.

    None means that a label has no hypothesis left.
    """
    taken, total = [candidate.premise], 0.0
    signatures = []
    for label in LABELS:
        options = [option for option in candidate.options if option.label == label]
        costs = [(_cost(option, balance), rng.random(), index) for index, option in enumerate(options)]
        for cost, _, index in sorted(costs):
            text = options[index].render()
            if text not in used and text not in taken:
                taken.append(text)
                signatures.append(options[index].signature)
                total += cost
                break
        else:
            return None
    return total, Triple(taken[0], tuple(taken[1:]), tuple(signatures))


def _cost(option: Option, balance: dict[str, Counter]) -> int:
    mine = balance[option.label][option.signature]
    return sum(mine - balance[label][option.signature] for label in LABELS)


def _rows(rng: random.Random, split: str, triples: list[tuple[str, Triple]]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for name, triple in triples:
        order = list(zip(LABELS, triple.hypotheses, strict=True))
        rng.shuffle(order)
        for label, hypothesis in order:
            identifier = f"nli-fr-{split.replace('_', '-')}-{len(rows) + 1:04d}"
            rows.append(
                {
                    "id": identifier,
                    "premise": triple.premise,
                    "hypothesis": hypothesis,
                    "label": label,
                    "phenomenon": name,
                }
            )
    return rows
