"""GGUF files of every family: llama.cpp computes the same scores as torch, and what it cannot compute is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax

from tests.export.test_gguf_writer import edit_json, gguf_scores, metadata, torch_scores
from tests.models.stand_ins import GEMMA_ROPE, LLAMA_3_ROPE, SHAPES, stand_in_config, write_stand_in
from toolkit.errors import ExportError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.decoder_config import read_config
from toolkit.models.decoder_folder import DecoderFolder
from toolkit.models.families import FAMILIES

END = 3071  # the end of a turn in the embedded tokenizer
TRIE = LabelTrie({"yes": (150, END), "but": (150, 151, 152, END), "no": (160, 161, END)})
# The longest is much longer than Gemma 3's sliding window in the stand-in.
PROMPTS = [[3066, *range(270, 270 + n)] for n in (3, 20, 90)]
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{shape: (shape, {}) for shape in SHAPES},
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with linear scaling": ("llama", {"rope_parameters": LINEAR}),
    "qwen2.5 with a head": ("qwen2.5", {"tie_word_embeddings": False}),
    "gemma3 with linear scaling": ("gemma3", {"rope_parameters": GEMMA_ROPE | {"full_attention": LINEAR}}),
}


@pytest.mark.parametrize("shape, overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_scores_match_torch(shape: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    folder = write_stand_in(shape, tmp_path / "model", std=0.06, **overrides)
    expected = torch_scores(folder, TRIE, PROMPTS)
    assert np.ptp(expected) > 1
    # llama.cpp looks Gemma's activation up in a table of float16 numbers, whatever the type of the weights.
    tolerance = 1e-3 if shape == "gemma3" else 2e-5
    for file_type, limit in (("f32", tolerance), ("f16", 2e-3)):
        write_gguf(folder, tmp_path / "model.gguf", file_type, date_string=None, name="model")  # type: ignore[arg-type]
        actual = gguf_scores(tmp_path / "model.gguf", TRIE, PROMPTS)
        np.testing.assert_allclose(actual, expected, atol=limit, err_msg=file_type)
        np.testing.assert_allclose(probabilities(actual), probabilities(expected), atol=1e-3, err_msg=file_type)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the probability of each label among the labels, [rows, labels]."""
    return softmax(TRIE.label_log_probs(scores), axis=1)


def test_norm_offset_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma adds 1 to the weights of its norms, llama.cpp does not."""
    folder = write_stand_in("gemma3", tmp_path / "model", std=0.06)
    expected = torch_scores(folder, TRIE, PROMPTS)
    gemma = dataclasses.replace(FAMILIES["Gemma3ForCausalLM"], norm_offset=0.0)
    monkeypatch.setitem(FAMILIES, "Gemma3ForCausalLM", gemma)
    write_gguf(folder, tmp_path / "wrong.gguf", "f32", date_string=None, name="model")
    assert np.abs(gguf_scores(tmp_path / "wrong.gguf", TRIE, PROMPTS) - expected).max() > 0.1


def test_norm_weights_are_not_rounded(tmp_path: Path) -> None:
    """1 is added in float32. In float16, the sum would lose the last bits of small weights."""
    folder = write_stand_in("gemma3", tmp_path / "model", dtype=torch.float16, std=0.001)
    tensor = next(tensor for tensor in DecoderFolder(folder).tensors if tensor.gguf_name == "output_norm.weight")
    weight = load_file(folder / "model.safetensors")["model.norm.weight"].float().numpy()
    np.testing.assert_array_equal(tensor.read(0, 64), weight + np.float32(1))


@pytest.mark.parametrize("shape", ["mistral", "qwen3"])
def test_sliding_window_limits_the_context(shape: str, tmp_path: Path) -> None:
    """llama.cpp ignores the window of these families, so its results are right up to the window only."""
    window: dict[str, Any] = {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 1}
    folder = write_stand_in(shape, tmp_path / "model", std=0.06, **window)
    assert read_config(folder).context_length == 100 and read_config(folder).sliding_window is None
    write_gguf(folder, tmp_path / "model.gguf", "f16", date_string=None, name="model")
    fields = metadata(tmp_path / "model.gguf")
    assert [fields[key] for key in fields if key.endswith(".context_length")] == [100]
    scores = gguf_scores(tmp_path / "model.gguf", TRIE, PROMPTS)
    np.testing.assert_allclose(scores, torch_scores(folder, TRIE, PROMPTS), atol=2e-3)


def test_unused_window_is_ignored(tmp_path: Path) -> None:
    """Qwen's configurations have a window that is switched off."""
    folder = write_stand_in("qwen2.5", tmp_path / "model", use_sliding_window=False)
    edit_json(folder / "config.json", sliding_window=100, layer_types=None)
    assert read_config(folder).context_length == 512


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "yarn": ("qwen3", {"rope_parameters": YARN}, "the rotary scaling 'yarn'"),
    "llama 3's scaling": ("smollm3", {"rope_parameters": LLAMA_3_ROPE}, "the rotary scaling 'llama3'"),
    "scaled sliding layers": ("gemma3", {"rope_parameters": GEMMA_ROPE | {"sliding_attention": LINEAR}}, "'linear'"),
    "half-rotated heads": ("llama", {"rope_parameters": PARTIAL}, "the partial_rotary_factor 0.5"),
    "an activation": ("gemma3", {"hidden_activation": "silu"}, "'silu' instead of 'gelu_pytorch_tanh'"),
    "a soft cap": ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
    "bidirectional attention": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
    "biases": ("qwen3", {"attention_bias": True}, "attention_bias"),
    "other sliding layers": ("gemma3", {"layer_types": ["full_attention"] * 6}, "all but every sixth"),
    "another score scale": ("gemma3", {"query_pre_attn_scalar": 64}, "a query_pre_attn_scalar of 64 instead of 32"),
    "other NoPE layers": ("smollm3", {"no_rope_layer_interval": 2}, "all but every fourth"),
    "wide heads": ("qwen2.5", {"head_dim": 32}, "4 heads of size 32 for a hidden_size of 64"),
    "chunked attention": ("qwen3", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
}


@pytest.mark.parametrize("shape, overrides, message", REFUSALS.values(), ids=REFUSALS.keys())
def test_other_computations_are_refused(shape: str, overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    architecture = next(name for name, family in FAMILIES.items() if family.name.lower().replace(" ", "") == shape)
    stand_in_config(shape, architectures=[architecture], **overrides).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=message):
        read_config(tmp_path)


def test_another_model_type_is_refused(tmp_path: Path) -> None:
    stand_in_config("llama", architectures=["Gemma3ForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="names Gemma3ForCausalLM, but its model_type llama is another"):
        read_config(tmp_path)


def test_several_differences_are_one_sentence(tmp_path: Path) -> None:
    overrides = {"rope_parameters": YARN, "attention_bias": True}
    stand_in_config("qwen3", architectures=["Qwen3ForCausalLM"], **overrides).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"'yarn', attention_bias, which llama\.cpp does not compute"):
        read_config(tmp_path)


def test_transformers_4_layout_gives_the_same_config(tmp_path: Path) -> None:
    """Gemma 3's first configurations have two rotary bases, and a number instead of layer types."""
    folder = write_stand_in("gemma3", tmp_path / "model")
    newer = read_config(folder)
    older = {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6}
    edit_json(folder / "config.json", rope_parameters=None, layer_types=None, _sliding_window_pattern=None, **older)
    assert read_config(folder) == newer


def test_rows_beyond_mistrals_window_are_refused(tmp_path: Path) -> None:
    """llama.cpp ignores the window of families other than Gemma 3."""
    config = read_config(write_stand_in("mistral", tmp_path / "mistral", sliding_window=16))
    config.check_length(16)
    with pytest.raises(ExportError, match=r"up to 17 tokens, .* of Mistral models, .* first 16 tokens"):
        config.check_length(17)
    read_config(write_stand_in("gemma3", tmp_path / "gemma3", sliding_window=16)).check_length(100)
