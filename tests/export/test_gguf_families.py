"""GGUF files of every family: llama.cpp must compute the same scores as torch, and what it cannot compute is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from tests.export.test_gguf_writer import edit_json, gguf_scores, metadata, torch_scores
from tests.models.stand_ins import GEMMA_ROPE, SHAPES, write_stand_in
from toolkit.errors import ExportError
from toolkit.export.gguf_writer import write_gguf
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.decoder_config import read_config

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
        probabilities, expected_probabilities = (softmax(scores, axis=1) for scores in (actual, expected))
        np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-3, err_msg=file_type)
