"""Documents as token ids and targets, compared with an independent implementation, token by token."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.prompts.tokenizer import load_tokenizer
from tools.tiny_llama_fr.corpus import COMPARISONS, EXERCISES, draw_document, draw_exercise
from tools.tiny_llama_fr.documents import Document, Mark
from tools.tiny_llama_fr.packing import _chat_format, encode_document

Targets = list[tuple[int, int, float]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def reference_encoding(tokenizer: Any, document: Document) -> tuple[list[int], Targets]:
    """Return the ids and targets of a document, built without a chat template."""

    def plain(text: str) -> list[int]:
        return tokenizer._tokenizer.encode(text, add_special_tokens=False).ids

    def special(name: str) -> int:
        return tokenizer.get_vocab()[f"<|{name}|>"]

    def next_tokens(start: int, stop: int, weight: float) -> Targets:
        return [(position, ids[position + 1], weight) for position in range(start, stop)]

    ids = [special("begin_of_text")]
    if not document.user:
        ids += [*plain(document.answer), special("end_of_text")]
        return ids, next_tokens(0, len(ids) - 1, 1.0)
    user = 0  # the position of the user's message, after the line breaks of its header
    for role, text in (("system", document.system), ("user", document.user), ("assistant", document.answer)):
        if role == "system" and not text:
            continue
        ids += [special("start_header_id"), *plain(role), special("end_header_id"), *plain("\n\n")]
        if role == "user":
            user = len(ids)
        answer = len(ids)
        ids += [*plain(text), special("eot_id")]
    targets = next_tokens(answer - 1, len(ids) - 1, 1.0) if document.answer else []
    if not document.marks:
        return ids, next_tokens(0, answer - 1, 0.05) + targets
    for end, verdict in sorted(document.marks):
        targets.append((user + len(plain(document.user[:end])) - 1, plain(f" {verdict}")[0], 1.0))
    last = user + len(plain(document.user)) - 1
    for offset, verdict in enumerate(document.closing):
        if verdict:
            targets.append((last + offset, plain(f" {verdict}")[0], 1.0))
    return ids, targets


def traits(document: Document) -> set[str]:
    """Return the names of a document's traits."""
    if not document.user:
        return {"plain text"}
    present = {
        "chat": True,
        "system": document.system,
        "no system": not document.system,
        "marks": document.marks,
        "no marks": not document.marks,
        "closing": document.closing,
        "no answer": not document.answer,
        "marks and answer": document.marks and document.answer,
        "lines": "\n" in document.user,
    }
    return {name for name, value in present.items() if value}


def draw_documents(stage: int) -> Iterator[Document]:
    rng = random.Random(f"packing {stage}")
    yield from (draw_document(rng, step=0) for _ in range(40))  # the first steps use only a few exercises
    yield from (draw_document(rng, stage=stage) for _ in range(260))


@pytest.mark.parametrize("stage", range(4))
def test_drawn_documents_match_the_reference(stage: int, tokenizer: Any) -> None:
    seen: set[str] = set()
    for document in draw_documents(stage):
        assert encode_document(tokenizer, document) == reference_encoding(tokenizer, document)
        seen |= traits(document)
    assert seen == {
        "plain text", "chat", "system", "no system", "marks", "no marks", "closing", "no answer", "marks and answer",
        "lines",
    }  # fmt: skip


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_matches_the_reference(name: str, tokenizer: Any) -> None:
    rng = random.Random(f"packing {name}")
    for _ in range(15):
        document = draw_exercise(rng, name)
        assert encode_document(tokenizer, document) == reference_encoding(tokenizer, document)
        assert bool(document.marks) == (name in COMPARISONS)


@pytest.mark.parametrize(
    "document",
    [
        Document("", ""),
        Document("", "Léa rit."),
        Document("Léa rit.", ""),
        Document("Léa rit.", "", system="signe"),
        Document("Léa rit.", "oui", system="signe"),
        Document("Léa rit.", "oui", marks=(Mark(7, "même"), Mark(3, "autre")), closing=("", "rien")),
        Document("Léa rit.", "", "signe", marks=(Mark(8, "même"),)),
        Document("a<|eot_id|>b", "<|begin_of_text|>"),
    ],
)
def test_rare_documents_match_the_reference(document: Document, tokenizer: Any) -> None:
    """Special tokens that are written in a text stay text."""
    ids, targets = encode_document(tokenizer, document)
    if "<|" in document.user:
        turns = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        assert [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in turns] == [2, 2, 2]
        assert ids.count(tokenizer.bos_token_id) == 1
    else:
        assert (ids, targets) == reference_encoding(tokenizer, document)


def test_template_is_rendered_once_per_role_sequence(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    render = type(tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(tokenizer), "apply_chat_template", lambda *args, **kwargs: rendered.append(1) or render(*args, **kwargs)
    )
    _chat_format.cache_clear()
    for document in draw_documents(0):
        encode_document(tokenizer, document)
    assert len(rendered) == 4  # prompt and conversation, with and without a system turn
