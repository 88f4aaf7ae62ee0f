"""The embedded model's tokenizer and the weights that ship with the package."""

import json
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from toolkit.embedded import MODEL_FOLDER
from toolkit.embedded.nli_fr import SPLITS, load_split
from toolkit.prompts.tokenizer import encode_plain, load_tokenizer

LABELS = ("entailment", "neutral", "contradiction")


@lru_cache(maxsize=1)
def shipped_tokenizer() -> Any:
    return load_tokenizer(MODEL_FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return shipped_tokenizer()


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_decoding_gives_back_any_text(text: str) -> None:
    tokenizer = shipped_tokenizer()
    assert tokenizer.decode(encode_plain(tokenizer, text), clean_up_tokenization_spaces=False) == text


@settings(max_examples=200, deadline=None)
@given(prompt=st.text(), answer=st.sampled_from(LABELS))
def test_a_line_break_separates_prompt_and_answer(prompt: str, answer: str) -> None:
    """The ids of the prompt are the same with and without the answer."""
    tokenizer = shipped_tokenizer()
    prompt = f"{prompt.rstrip()}.\n"
    alone, whole = encode_plain(tokenizer, prompt), encode_plain(tokenizer, prompt + answer)
    assert whole[: len(alone)] == alone


def test_each_label_is_one_token(tokenizer: Any) -> None:
    line_break = encode_plain(tokenizer, "\n\n")
    assert len(line_break) == 1
    for label in LABELS:
        ids = encode_plain(tokenizer, label)
        assert len(ids) == 1
        assert encode_plain(tokenizer, f"\n\n{label}") == line_break + ids


def test_the_chat_template_renders_llama_3_conversations(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": " S "}, {"role": "user", "content": "U"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_tokenizer_has_llama_3s_structure(shared: Any) -> None:
    ours = json.loads((MODEL_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    theirs = json.loads((shared / "llama-3.2" / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    assert ours["pre_tokenizer"] == theirs["pre_tokenizer"]
    assert ours["decoder"] == theirs["decoder"]
    assert ours["normalizer"] is None
    assert ours["model"]["ignore_merges"] is True
    assert ours["post_processor"]["single"] == theirs["post_processor"]["single"]


def test_frequent_words_are_one_token(tokenizer: Any) -> None:
    assert all(len(encode_plain(tokenizer, word)) == 1 for word in (" labrador", " gorille", " Léa", " pas"))


def test_a_row_takes_few_tokens(tokenizer: Any) -> None:
    lengths = [
        len(encode_plain(tokenizer, f"{row['premise']}\n{row['hypothesis']}"))
        for split in SPLITS
        for row in load_split(split)
    ]
    assert max(lengths) <= 64
    assert sum(lengths) / len(lengths) <= 24


def test_the_weights_are_small_and_16_bit() -> None:
    files = {path.name: path.stat().st_size for path in MODEL_FOLDER.iterdir()}
    assert files["model.safetensors"] <= 8_000_000
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "README.md", "pretrain.json"} <= set(files)
    with safe_open(MODEL_FOLDER / "model.safetensors", "pt") as tensors:
        slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
        assert {tensor.get_dtype() for tensor in slices} == {"F16"}
        count = sum(size_of(tensor.get_shape()) for tensor in slices)
    assert 2_000_000 <= count <= 4_000_000
    figures = json.loads((MODEL_FOLDER / "pretrain.json").read_text(encoding="utf-8"))
    assert figures["parameters"] == count
    assert len(figures["losses_every_50_steps"]) == figures["steps"] // 50


def size_of(shape: list[int]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def test_widths_fit_gguf_quantization_blocks() -> None:
    config = json.loads((MODEL_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert config["head_dim"] % 32 == 0
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"] is True


def test_zero_shot_accuracy_is_near_chance(tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
    labels = torch.tensor([encode_plain(tokenizer, label)[0] for label in LABELS])
    right = 0
    rows = load_split("test")
    for row in rows:
        messages = [{"role": "user", "content": f"{row['premise']}\n{row['hypothesis']}"}]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.inference_mode():
            scores = model(ids).logits[0, -1, labels]
        right += LABELS[int(scores.argmax())] == row["label"]
    assert right / len(rows) <= 0.45
