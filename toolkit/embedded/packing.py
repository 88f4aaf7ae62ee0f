"""Corpus documents as token ids, packed into rows of fixed length."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.embedded.corpus import Document, draw_document
from toolkit.embedded.tiny_llama import BOS, END_HEADER, END_OF_TEXT, EOT, START_HEADER
from toolkit.prompts import encode_plain

if TYPE_CHECKING:
    from torch import Tensor

# Answers carry the skill; the words of a question are mostly random and teach grammar alone.
QUESTION_WEIGHT = 0.05
# Until that step of each stage, what cannot be foreseen has no weight: it would only disturb.
QUESTION_STEPS = (250, 0)


class Encoded(NamedTuple):
    """A document's ids and, for each, the weight of its prediction in the loss."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Packed rows; every document has its own positions and sees no other.

    input_ids, position_ids: (rows, length) int64. mask: (rows, 1, length, length) bool, True where a query (third
    dimension) may look. weights: (rows, length) float32, of predicting the token that stands there.
    """

    input_ids: "Tensor"
    position_ids: "Tensor"
    mask: "Tensor"
    weights: "Tensor"


def segments(document: Document) -> list[str]:
    """The document's texts between special tokens, as its tokens see them."""
    if not document.system:
        return [document.answer]
    turns = (("system", document.system), ("user", document.user), ("assistant", document.answer))
    return [text for role, content in turns for text in (role, f"\n\n{content}")]


def encode_document(tokenizer: Any, document: Document, learn_questions: bool = True) -> Encoded:
    """The ids of a document: in chat format, or plain text that ends in `<|end_of_text|>`.

    Args:
        learn_questions: give what cannot be foreseen a little weight too, for its grammar.
    """
    light = QUESTION_WEIGHT if learn_questions else 0.0
    special = tokenizer.convert_tokens_to_ids
    if not document.system:
        text = encode_plain(tokenizer, document.answer)
        return Encoded([special(BOS), *text, special(END_OF_TEXT)], [0.0] + [1.0] * (len(text) + 1))
    ids, weights = [special(BOS)], [0.0]
    pieces = [encode_plain(tokenizer, text) for text in segments(document)]
    for header, content in zip(pieces[::2], pieces[1::2], strict=True):
        turn = [special(START_HEADER), *header, special(END_HEADER), *content, special(EOT)]
        ids += turn
        weights += [light] * len(turn)
    # The answer begins after its header and line break, and ends with the end of turn.
    answer = _answer_weights(tokenizer, document, light)
    weights[-len(answer) :] = answer
    return Encoded(ids, weights)


def _answer_weights(tokenizer: Any, document: Document, light: float) -> list[float]:
    weights: list[float] = []
    for index, word in enumerate(document.answer.split(" ")):
        count = len(encode_plain(tokenizer, f" {word}" if index else word))
        weights += [light if document.tagged and index % 2 == 0 else 1.0] * count
    return [*weights, 0.0 if document.tagged else 1.0]


def pack(documents: list[list[Encoded]], length: int, pad_id: int) -> Batch:
    """Tensors for rows of documents, padded to `length`."""
    import torch

    shape = (len(documents), length)
    input_ids = torch.full(shape, pad_id)
    position_ids, owner = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    for row, entries in enumerate(documents):
        start = 0
        for number, entry in enumerate(entries, start=1):
            stop = start + len(entry.ids)
            input_ids[row, start:stop] = torch.tensor(entry.ids)
            position_ids[row, start:stop] = torch.arange(len(entry.ids))
            owner[row, start:stop] = number
            weights[row, start:stop] = torch.tensor(entry.weights)
            start = stop
    same = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(input_ids, position_ids, (same & causal)[:, None], weights)


def training_batch(tokenizer: Any, seed: int, stage: int, step: int, rows: int, length: int) -> Batch:
    """The batch of a step of a stage, decided by these and the seed, so that a resumed run misses nothing."""
    rng = random.Random(f"pretrain {seed + stage} {step + 10_000 * stage}")
    packed: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    misses = 0
    while misses < 3:
        entry = encode_document(tokenizer, draw_document(rng, step, stage), step >= QUESTION_STEPS[stage])
        row = next((index for index in range(rows) if room[index] >= len(entry.ids)), None)
        if row is None:
            misses += 1
            continue
        packed[row].append(entry)
        room[row] -= len(entry.ids)
    return pack(packed, length, tokenizer.pad_token_id)
