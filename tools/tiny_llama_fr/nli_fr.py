"""The generator of French natural language inference pairs: deterministic, balanced, with disjoint splits.

Each premise has three hypotheses, one per label, as in XNLI. A phenomenon offers many hypotheses for a premise. The
generator keeps those that make every signature (polarity, quantifier, level of the noun ...) equally frequent under
the three labels, so that a hypothesis without its premise does not reveal the label.
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

# Premises drawn for each one that is kept. More draws balance the signatures better but make generation slower.
_PREMISE_DRAWS = 6


class Triple(NamedTuple):
    """A premise with its hypotheses and their signatures, in the order of `LABELS`."""

    premise: str
    hypotheses: tuple[str, ...]
    signatures: tuple[tuple[Hashable, ...], ...]


def generate(split: str, seed: int = DEFAULT_SEED) -> list[dict[str, str]]:
    """Return the rows of a split: `id`, `premise`, `hypothesis`, `label`, `phenomenon`.

    Three consecutive rows share a premise and have one label each, in random order.

    Args:
        split: One of `SPLITS`. Nouns, names and verbs of `test_lexical` do not occur in other splits.
        seed: The seed that determines every row. The splits of a seed are disjoint.

    Raises:
        DataError: If there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"embedded:nli-fr has no split {split!r}.", hint=f"Available splits: {', '.join(SPLITS)}.")
    return [dict(row) for row in _splits(seed)[split]]


@lru_cache(maxsize=2)
def _splits(seed: int) -> dict[str, list[dict[str, str]]]:
    # The small splits are generated first. Train comes last because it can avoid their sentences most easily.
    used: set[str] = set()
    rows = {}
    for split in ("test_lexical", "test", "dev", "train"):
        # Python hashes a string seed with SHA-512, so the rows do not depend on PYTHONHASHSEED.
        rng = random.Random(f"nli-fr {split} {seed}")
        triples = _draw_triples(rng, HELD_OUT if split == "test_lexical" else LEXICON, SIZES[split] // 3, used)
        rows[split] = _to_rows(rng, split, triples)
    return rows


def _draw_triples(rng: random.Random, lexicon: Lexicon, count: int, used: set[str]) -> list[tuple[str, Triple]]:
    """Return `count` shuffled triples, equally many per phenomenon, and add their sentences to `used`."""
    balance: dict[str, dict[str, Counter]] = {name: {label: Counter() for label in LABELS} for name in PHENOMENA}
    names = list(PHENOMENA)
    triples = []
    for index in range(count):
        name = names[index % len(names)]
        triple = _draw_best(rng, PHENOMENA[name], lexicon, balance[name], used)
        for label, signature in zip(LABELS, triple.signatures, strict=True):
            balance[name][label][signature] += 1
        used.update((triple.premise, *triple.hypotheses))
        triples.append((name, triple))
    rng.shuffle(triples)
    return triples


def _draw_best(rng: random.Random, phenomenon: Callable, lexicon: Lexicon, balance: dict, used: set[str]) -> Triple:
    best: tuple[float, Triple] | None = None
    draws = 0
    while best is None or draws < _PREMISE_DRAWS:
        draws += 1
        candidate = phenomenon(rng, lexicon)
        if candidate.premise in used:
            continue
        scored = _choose_hypotheses(rng, candidate, balance, used)
        if scored and (best is None or scored[0] < best[0]):
            best = scored
    return best[1]


def _choose_hypotheses(
    rng: random.Random, candidate: Candidate, balance: dict, used: set[str]
) -> tuple[float, Triple] | None:
    """Choose for each label the hypothesis whose signature is rarest there, compared with the other labels.

    Returns:
        The imbalance that the hypotheses add, and the triple. None if a label has no unused hypothesis left.
    """
    chosen, total = [candidate.premise], 0.0
    signatures = []
    for label in LABELS:
        options = [option for option in candidate.options if option.label == label]
        # The random number breaks ties between equal costs.
        costs = [(_imbalance(option, balance), rng.random(), index) for index, option in enumerate(options)]
        for cost, _, index in sorted(costs):
            text = options[index].render()
            if text not in used and text not in chosen:
                chosen.append(text)
                signatures.append(options[index].signature)
                total += cost
                break
        else:
            return None
    return total, Triple(chosen[0], tuple(chosen[1:]), tuple(signatures))


def _imbalance(option: Option, balance: dict[str, Counter]) -> int:
    count = balance[option.label][option.signature]
    return sum(count - balance[label][option.signature] for label in LABELS)


def _to_rows(rng: random.Random, split: str, triples: list[tuple[str, Triple]]) -> list[dict[str, str]]:
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
