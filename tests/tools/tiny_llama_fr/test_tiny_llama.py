"""The shipped model agrees with the constants, the tokenizer and the exercises of the tool."""

import json
from typing import Any

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.prompts.tokenizer import encode_plain, load_tokenizer
from tools.tiny_llama_fr.pretrain import exercise_accuracy
from tools.tiny_llama_fr.saving import model_card
from tools.tiny_llama_fr.tiny_llama import BOS, CHAT_TEMPLATE, EOT, PAD, SPECIAL_TOKENS, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


def test_special_tokens_come_after_the_vocabulary(tokenizer: Any) -> None:
    """A text is never encoded as a special token."""
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOT, PAD)
    assert max(encode_plain(tokenizer, "".join(SPECIAL_TOKENS))) < ids[0]


def test_the_vocabulary_covers_every_byte() -> None:
    small = build_tokenizer(["un chien"], vocabulary_size=300)
    assert small.decode(encode_plain(small, "日本 \x00")) == "日本 \x00"


def test_the_shipped_chat_template_is_current(tokenizer: Any) -> None:
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_the_shipped_model_card_is_current() -> None:
    metrics = json.loads((MODEL_FOLDER / "pretrain.json").read_text(encoding="utf-8"))
    assert (MODEL_FOLDER / "README.md").read_text(encoding="utf-8") == model_card(metrics)


def test_the_shipped_model_copies_and_compares_words(tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
    accuracy = exercise_accuracy(model, tokenizer, probes=40)
    assert accuracy["copie"] >= 0.95
    assert accuracy["phrases signées"] >= 0.9
    assert accuracy["rôles d'un coup"] >= 0.9
