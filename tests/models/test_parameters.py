"""Parameter counts: the published ones of Llama 3.2 1B, and the same for a 4-bit base."""

import json
from pathlib import Path

import pytest

from toolkit.errors import ModelError
from toolkit.models.parameters import count_parameters
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Lora

LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def one_b(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_2_1B), encoding="utf-8")
    return tmp_path


def test_llama_3_2_1b_with_the_recipes_adapter(one_b: Path) -> None:
    count = count_parameters(one_b, Lora())
    assert (count.trainable, count.total) == (3_407_872, 1_239_222_272)
    assert str(count) == "3,407,872 of 1,239,222,272 parameters are trained (0.2750%)"


def test_weights_are_2_5_gb_in_16_bit_and_under_half_of_it_in_4_bit(one_b: Path) -> None:
    count = count_parameters(one_b, Lora())
    half = Precision("bfloat16", "test")
    assert count.weight_bytes(half, load_in_4bit=False) == pytest.approx(2.485e9, rel=1e-3)
    # 973 M packed linear weights at 0.516 bytes, 263 M embeddings at 2.
    assert count.weight_bytes(half, load_in_4bit=True) == pytest.approx(1.042e9, rel=1e-2)


def test_3b_has_the_6_5_gb_that_the_study_reports(tmp_path: Path) -> None:
    shape = {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_2_1B | shape), encoding="utf-8")
    count, half = count_parameters(tmp_path, Lora()), Precision("float16", "test")
    assert count.weight_bytes(half, load_in_4bit=False) == pytest.approx(6.5e9, rel=0.02)
    assert count.weight_bytes(half, load_in_4bit=True) == pytest.approx(2.28e9, rel=0.02)


def test_a_rank_twice_as_high_trains_twice_as_much(one_b: Path) -> None:
    assert count_parameters(one_b, Lora(r=32)).trainable == 2 * 3_407_872


def test_a_folder_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        count_parameters(tmp_path, Lora())
