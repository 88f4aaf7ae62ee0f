"""Parameter counts and weight memory, compared with the published numbers of Llama 3.2."""

import json
from pathlib import Path

import pytest

from toolkit.errors import ModelError
from toolkit.models.parameters import count_parameters
from toolkit.models.precision import Precision
from toolkit.recipe.schema import LoraSection

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
def llama_1b(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_2_1B), encoding="utf-8")
    return tmp_path


def test_llama_1b_parameters(llama_1b: Path) -> None:
    count = count_parameters(llama_1b, LoraSection())
    assert (count.trainable, count.total) == (3_407_872, 1_239_222_272)
    assert str(count) == "3,407,872 of 1,239,222,272 parameters are trained (0.2750%)"


def test_llama_1b_weight_memory(llama_1b: Path) -> None:
    count = count_parameters(llama_1b, LoraSection())
    precision = Precision("bfloat16", "test")
    assert count.weight_bytes(precision, load_in_4bit=False) == pytest.approx(2.485e9, rel=1e-3)
    # 973 M quantized weights of 0.516 bytes and 263 M embedding weights of 2 bytes.
    assert count.weight_bytes(precision, load_in_4bit=True) == pytest.approx(1.042e9, rel=1e-2)


def test_llama_3b_memory_matches_the_study(tmp_path: Path) -> None:
    shape = {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_2_1B | shape), encoding="utf-8")
    count, precision = count_parameters(tmp_path, LoraSection()), Precision("float16", "test")
    assert count.weight_bytes(precision, load_in_4bit=False) == pytest.approx(6.5e9, rel=0.02)
    assert count.weight_bytes(precision, load_in_4bit=True) == pytest.approx(2.28e9, rel=0.02)


def test_trainable_parameters_scale_with_rank(llama_1b: Path) -> None:
    assert count_parameters(llama_1b, LoraSection(r=32)).trainable == 2 * 3_407_872


def test_invalid_config_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        count_parameters(tmp_path, LoraSection())
