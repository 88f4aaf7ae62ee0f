"""Corpus documents as token ids and targets, packed into rows of fixed length."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.embedded.corpus import draw_document
from toolkit.embedded.documents import Document
from toolkit.embedded.tiny_llama import BOS, END_HEADER, END_OF_TEXT, EOT, START_HEADER
from toolkit.prompts import encode_plain

if TYPE_CHECKING:
    from torch import Tensor

# Answers carry the skill; the words of a question are mostly random and teach grammar alone.
QUESTION_WEIGHT = 0.05


class Target(NamedTuple):
    """At `position` the model shall predict `token`; the loss counts it `weight` times."""

    position: int
    token: int
    weight: float


class Encoded(NamedTuple):
    """A document's ids and what is to be predicted where."""

    ids: list[int]
    targets: list[Target]


@dataclass(frozen=True)
class Batch:
    """Packed rows; every document has its own positions and sees no other.

    input_ids, position_ids: (rows, length) int64. mask: (rows, 1, length, length) bool, True where a query (third
    dimension) may look. Of the targets: `at` (n,) int64, the place in the flattened rows; `tokens` (n,) int64;
    `weights` (n,) float32.
    """

    input_ids: "Tensor"
    position_ids: "Tensor"
    mask: "Tensor"
    at: "Tensor"
    tokens: "Tensor"
    weights: "Tensor"


def segments(document: Document) -> list[str]:
    """The texts between special tokens, as a tokenizer sees them, and what is told of them."""
    if not document.user:
        return [document.answer]
    told = [f" {verdict}" for verdict in (*(mark.verdict for mark in document.marks), *document.closing)]
    return [text for role, content in _turns(document) for text in (role, f"\n\n{content}")] + told


def _turns(document: Document) -> list[tuple[str, str]]:
    turns = [("system", document.system)] if document.system else []
    return [*turns, ("user", document.user), ("assistant", document.answer)]


def encode_document(tokenizer: Any, document: Document) -> Encoded:
    """The ids of a document, in chat format or as plain text that ends in `<|end_of_text|>`, and its targets.

    Of a chat its answer, its marks and its closing tokens count; without marks its questions count a little too, for
    their grammar.
    """
    special = tokenizer.convert_tokens_to_ids
    if not document.user:
        ids = [special(BOS), *encode_plain(tokenizer, document.answer), special(END_OF_TEXT)]
        return Encoded(ids, _next_tokens(ids, 0, 1.0))
    ids, starts = [special(BOS)], {}
    for role, content in _turns(document):
        ids += [special(START_HEADER), *_piece(tokenizer, role), special(END_HEADER)]
        starts[role] = len(ids)
        ids += [*encode_plain(tokenizer, f"\n\n{content}"), special(EOT)]
    answer = starts["assistant"] + len(_piece(tokenizer, "\n\n")) - 1
    targets = _next_tokens(ids, answer, 1.0) if document.answer else []
    if not document.marks:
        return Encoded(ids, _next_tokens(ids[: answer + 1], 0, QUESTION_WEIGHT) + targets)
    place, read = starts["user"] - 1, 0
    # A mark stands where a word or a line ends, so what lies between two marks is encoded alone as it is in the whole.
    for end, verdict in sorted(document.marks):
        place += len(_piece(tokenizer, document.user[read:end] if read else f"\n\n{document.user[:end]}"))
        read = end
        targets.append(Target(place, _word(tokenizer, verdict), 1.0))
    last = place + len(_piece(tokenizer, document.user[read:]))
    told = [(last + step, verdict) for step, verdict in enumerate(document.closing) if verdict]
    targets += [Target(place, _word(tokenizer, verdict), 1.0) for place, verdict in told]
    return Encoded(ids, targets)


def _next_tokens(ids: list[int], start: int, weight: float) -> list[Target]:
    return [Target(place, ids[place + 1], weight) for place in range(start, len(ids) - 1)]


def _word(tokenizer: Any, word: str) -> int:
    """The first token of a word inside a sentence."""
    return _piece(tokenizer, f" {word}")[0]


@lru_cache(maxsize=100_000)
def _piece(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(encode_plain(tokenizer, text))


def pack(documents: list[list[Encoded]], length: int, pad_id: int) -> Batch:
    """Tensors for rows of documents, padded to `length`."""
    import torch

    shape = (len(documents), length)
    input_ids = torch.full(shape, pad_id)
    position_ids, owner = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    targets: list[Target] = []
    for row, entries in enumerate(documents):
        start = 0
        for number, entry in enumerate(entries, start=1):
            stop = start + len(entry.ids)
            input_ids[row, start:stop] = torch.tensor(entry.ids)
            position_ids[row, start:stop] = torch.arange(len(entry.ids))
            owner[row, start:stop] = number
            offset = row * length + start
            targets += [target._replace(position=target.position + offset) for target in entry.targets]
            start = stop
    same = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    at, tokens, weights = (torch.tensor(column) for column in zip(*targets, strict=True))
    return Batch(input_ids, position_ids, (same & causal)[:, None], at, tokens, weights)


def training_batch(tokenizer: Any, seed: int, step: int, stage: int, rows: int, length: int) -> Batch:
    """The batch of a step of a stage, decided by these and the seed, so that a resumed run misses nothing."""
    rng = random.Random(f"pretrain {seed} {step}")
    packed: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    misses = 0
    while misses < 3:
        entry = encode_document(tokenizer, draw_document(rng, step, stage))
        row = next((index for index in range(rows) if room[index] >= len(entry.ids)), None)
        if row is None:
            misses += 1
            continue
        packed[row].append(entry)
        room[row] -= len(entry.ids)
    return pack(packed, length, tokenizer.pad_token_id)
