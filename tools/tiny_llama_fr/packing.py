"""Corpus documents as token ids and targets, packed into rows of fixed length."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.prompts.chat_template import ChatTemplate
from toolkit.prompts.tokenizer import encode_plain
from tools.tiny_llama_fr.corpus import draw_document
from tools.tiny_llama_fr.documents import Document
from tools.tiny_llama_fr.tiny_llama import END_OF_TEXT

if TYPE_CHECKING:
    from torch import Tensor

# Answers teach the exercises. The words of a question are mostly random, so they only teach grammar.
QUESTION_WEIGHT = 0.05


class Target(NamedTuple):
    """A token to predict at a position, with its weight in the loss."""

    position: int
    token: int
    weight: float


class Encoded(NamedTuple):
    """The token ids of a document, and its targets."""

    ids: list[int]
    targets: list[Target]


@dataclass(frozen=True)
class Batch:
    """Packed rows. The positions of every document start at 0, and no document attends to another.

    Attributes:
        input_ids: [rows, length] int64.
        position_ids: [rows, length] int64.
        mask: [rows, 1, length, length] bool, True if a query (third dimension) attends to a key.
        at: [targets] int64, the position of each target in the flattened rows.
        tokens: [targets] int64, the token to predict.
        weights: [targets] float32.
    """

    input_ids: "Tensor"
    position_ids: "Tensor"
    mask: "Tensor"
    at: "Tensor"
    tokens: "Tensor"
    weights: "Tensor"


def encode_document(tokenizer: Any, document: Document) -> Encoded:
    """Return the ids and the targets of a document. A plain text ends in `<|end_of_text|>`.

    The targets of a chat are the answer, the marks and the closing tokens. Without marks, the question is a target with
    a small weight, to teach its grammar.
    """
    if not document.user:
        end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
        ids = [tokenizer.bos_token_id, *encode_plain(tokenizer, document.answer), end]
        return Encoded(ids, _next_tokens(ids, 0, 1.0))
    roles, texts = zip(*document.turns, strict=True)
    template, lead = _chat_format(tokenizer, roles)
    ids, starts = template.encode_conversation(texts)
    answer = starts[-1] + lead - 1  # the last token of the prompt, which predicts the first token of the answer
    targets = _next_tokens(ids, answer, 1.0) if document.answer else []
    if not document.marks:
        return Encoded(ids, _next_tokens(ids[: answer + 1], 0, QUESTION_WEIGHT) + targets)
    user = starts[roles.index("user")] + lead - 1
    return Encoded(ids, targets + _mark_targets(tokenizer, document, user))


class _ChatFormat(NamedTuple):
    """A chat template, and the number of tokens between a header and its message ("\\n\\n")."""

    template: ChatTemplate
    lead: int


@lru_cache(maxsize=16)
def _chat_format(tokenizer: Any, roles: tuple[str, ...]) -> _ChatFormat:
    template = ChatTemplate(tokenizer, roles)
    empty = [""] * len(roles)
    _, starts = template.encode_conversation(empty)
    return _ChatFormat(template, len(template.encode_prompt(empty[:-1])) - starts[-1])


def _mark_targets(tokenizer: Any, document: Document, position: int) -> list[Target]:
    """Return the targets of the marks and the closing tokens.

    Args:
        tokenizer: The tokenizer.
        document: The document.
        position: The position of the token before the user's text.
    """
    # A mark is at the end of a word or line, and there the tokenizer always splits the text. So the tokens between two
    # marks can be counted by encoding the text between them separately.
    targets, read = [], 0
    for end, verdict in sorted(document.marks):
        position += len(_encode_cached(tokenizer, document.user[read:end]))
        read = end
        targets.append(Target(position, _first_token(tokenizer, verdict), 1.0))
    last = position + len(_encode_cached(tokenizer, document.user[read:]))
    closing = [(last + offset, verdict) for offset, verdict in enumerate(document.closing) if verdict]
    return targets + [Target(at, _first_token(tokenizer, verdict), 1.0) for at, verdict in closing]


def _next_tokens(ids: list[int], start: int, weight: float) -> list[Target]:
    return [Target(at, ids[at + 1], weight) for at in range(start, len(ids) - 1)]


def _first_token(tokenizer: Any, word: str) -> int:
    """Return the first token of a word in the middle of a sentence."""
    return _encode_cached(tokenizer, f" {word}")[0]


@lru_cache(maxsize=100_000)
def _encode_cached(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(encode_plain(tokenizer, text))


def pack(documents: list[list[Encoded]], length: int, pad_id: int) -> Batch:
    """Return the batch for rows of documents, padded to `length`."""
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
    # Padding has owner 0. It attends only to padding, so no row of the mask is empty, which would make the softmax NaN.
    same_document = owner[:, :, None] == owner[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    at, tokens, weights = (torch.tensor(column) for column in zip(*targets, strict=True))
    return Batch(input_ids, position_ids, (same_document & causal)[:, None], at, tokens, weights)


def training_batch(tokenizer: Any, seed: int, step: int, stage: int, rows: int, length: int) -> Batch:
    """Return the batch of a step. It depends only on seed, step and stage, so a resumed run draws the same batches."""
    rng = random.Random(f"pretrain {seed} {step}")
    packed: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    misses = 0
    # The batch is complete once three documents have not fit into any row.
    while misses < 3:
        entry = encode_document(tokenizer, draw_document(rng, step, stage))
        row = next((index for index in range(rows) if room[index] >= len(entry.ids)), None)
        if row is None:
            misses += 1
            continue
        packed[row].append(entry)
        room[row] -= len(entry.ids)
    return pack(packed, length, tokenizer.pad_token_id)
