"""The tokenizer of an imported adapter: its own if it has one, else that of the base model."""

from pathlib import Path

import pytest

from toolkit.embedded import MODEL_FOLDER
from toolkit.errors import ModelError
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.prompts.tokenizer_choice import choose_tokenizer


def test_base_is_used_if_adapter_has_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    folder, reason = choose_tokenizer(tmp_path, MODEL_FOLDER)
    assert folder == MODEL_FOLDER and "the adapter has none" in reason


def test_equal_tokenizers_are_recognized(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MODEL_FOLDER)
    tokenizer.padding_side = "left"  # as Unsloth saves it, which changes no token id
    tokenizer.save_pretrained(tmp_path)
    assert choose_tokenizer(tmp_path, MODEL_FOLDER) == (tmp_path, "the adapter's, equal to the base model's")


def test_missing_template_is_taken_from_the_base(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MODEL_FOLDER)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    folder, reason = choose_tokenizer(tmp_path, MODEL_FOLDER)
    assert folder == MODEL_FOLDER and "no chat template" in reason


def test_another_vocabulary_wins_and_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MODEL_FOLDER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path)
    folder, reason = choose_tokenizer(tmp_path, MODEL_FOLDER)
    assert folder == tmp_path and "another vocabulary and chat template" in reason


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        choose_tokenizer(tmp_path, MODEL_FOLDER)
