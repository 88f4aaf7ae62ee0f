"""The GGUF writer compared with llama.cpp's own converter on the same folder: equal tensors, equal metadata.

Needs LLAMA_CPP_SOURCE, a folder with convert_hf_to_gguf.py (the source package of llama-cpp-python 0.3.36 has it in
vendor/llama.cpp), and Llama 3's tokenizer in ../shared, which the converter recognizes by its hash.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.models.stand_ins import GEMMA_ROPE, write_stand_in
from toolkit.export.gguf_writer import write_gguf
from toolkit.models.backend import AutoConfig, AutoModelForCausalLM
from toolkit.prompts.tokenizer import load_tokenizer

# The converter capitalizes the folder's name and sets no temperature. We set 0, which suits a classifier.
EXPECTED_DIFFERENCES = {"general.name", "general.sampling.temp", "GGUF.kv_count"}


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    source = Path(os.environ.get("LLAMA_CPP_SOURCE", "nowhere")) / "convert_hf_to_gguf.py"
    if not source.is_file():
        pytest.skip("needs LLAMA_CPP_SOURCE, a folder with llama.cpp's convert_hf_to_gguf.py")
    # The converter imports sentencepiece before it notices that the folder has no SentencePiece model.
    stub = tmp_path_factory.mktemp("stub")
    (stub / "sentencepiece.py").write_text("SentencePieceProcessor = None\n", encoding="utf-8")
    return ["env", f"PYTHONPATH={stub}", sys.executable, str(source)]


KNOWN_SPLIT = """
import runpy, sys
from pathlib import Path

del sys.argv[0]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
sys.path.insert(1, str(Path(sys.argv[0]).parent / "gguf-py"))
import transformers
from conversion.base import TextModel

# AutoTokenizer would use Qwen's own class and add a token.
transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
TextModel.get_vocab_base_pre = lambda *_: "llama-bpe"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A program that runs the converter in its arguments as if any tokenizer split words like Llama 3's."""

BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32
UNTIED = {"tie_word_embeddings": False}
UNSCALED = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
LINEAR = {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}
OTHER_HEADS = {"num_key_value_heads": 8, "head_dim": 32}


@pytest.mark.parametrize(
    ("file_type", "overrides", "dtype", "shard_size"),
    [
        ("f32", {}, BFLOAT16, "1GB"),
        ("f16", UNTIED, FLOAT32, "20MB"),
        ("bf16", OTHER_HEADS, BFLOAT16, "1GB"),
        ("bf16", {}, FLOAT32, "1GB"),
        ("q8_0", {}, BFLOAT16, "20MB"),
        ("q8_0", UNTIED | UNSCALED, FLOAT16, "1GB"),
        ("tq1_0", {}, BFLOAT16, "1GB"),
        ("tq2_0", OTHER_HEADS, FLOAT16, "1GB"),
    ],
)
def test_output_matches_llama_cpp_converter(
    file_type: Any,
    overrides: dict[str, Any],
    dtype: torch.dtype,
    shard_size: str,
    converter: list[str],
    nano: Path,
    tmp_path: Path,
) -> None:
    config = AutoConfig.from_pretrained(nano)
    config.update(overrides)
    torch.manual_seed(0)
    folder = tmp_path / "nano"
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder, max_shard_size=shard_size)
    load_tokenizer(nano).save_pretrained(folder)
    compare_with_converter(folder, file_type, converter, tmp_path)


def compare_with_converter(folder: Path, file_type: Any, converter: list[str], tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    subprocess.run([*converter, str(folder), "--outfile", str(theirs), "--outtype", file_type], check=True)
    write_gguf(folder, ours, file_type, date_string=None, name=folder.name)
    readers = (gguf.GGUFReader(theirs), gguf.GGUFReader(ours))
    expected_fields, fields = (
        {key: (field.types, field.contents()) for key, field in reader.fields.items()} for reader in readers
    )
    different = {key for key in expected_fields.keys() | fields.keys() if expected_fields.get(key) != fields.get(key)}
    assert different == EXPECTED_DIFFERENCES
    expected_tensors, tensors = ({tensor.name: tensor for tensor in reader.tensors} for reader in readers)
    assert expected_tensors.keys() == tensors.keys() and len(tensors) > 20
    for name, expected in expected_tensors.items():
        assert tensors[name].tensor_type == expected.tensor_type, name
        np.testing.assert_array_equal(tensors[name].data, expected.data, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "file_type", "overrides"),
    [
        ("croissant", "f16", {}),
        ("mistral", "bf16", {}),
        ("qwen2.5", "f16", {}),
        ("qwen2.5", "q8_0", UNTIED),
        ("qwen3", "bf16", {}),
        ("smollm3", "f16", {}),
        ("gemma3", "f16", {}),
        ("gemma3", "q8_0", {"rope_parameters": GEMMA_ROPE | {"full_attention": LINEAR}}),
    ],
)
def test_families_match_llama_cpp_converter(
    shape: str, file_type: Any, overrides: dict[str, Any], converter: list[str], tmp_path: Path
) -> None:
    """Use the embedded tokenizer for every family, and pass its split, which the converter knows by hash only."""
    folder = write_stand_in(shape, tmp_path / "nano", **overrides)
    *python, script = converter
    known_split = tmp_path / "known_split.py"
    known_split.write_text(KNOWN_SPLIT, encoding="utf-8")
    compare_with_converter(folder, file_type, [*python, str(known_split), script], tmp_path)
