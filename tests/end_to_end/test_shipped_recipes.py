"""Every shipped recipe for a model from the Hub passes the preflight on a configuration of that model's true shape."""

import json
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.conftest import ROOT
from tests.models.stand_ins import GEMMA_ROPE
from toolkit.embedded import MODEL_FOLDER, nli_fr
from toolkit.models.backend import AutoConfig
from toolkit.prompts.tokenizer import load_tokenizer

LLAMA_3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
LLAMA_1B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    "max_position_embeddings": 131072, "rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_3B = LLAMA_1B | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "max_position_embeddings": 40960, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144, "sliding_window": 512,
    "max_position_embeddings": 32768, "rope_parameters": GEMMA_ROPE, "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM3: dict[str, Any] = {
    "model_type": "smollm3", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
}  # fmt: skip
CROISSANT: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM2: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "nli_fr": (LLAMA_1B, 1_235_814_400),
    "nli_fr_3b": (LLAMA_3B, 3_212_749_824),
    "nli_fr_croissant": (CROISSANT, 1_345_423_360),
    "nli_fr_gemma3": (GEMMA3, 268_098_176),
    "nli_fr_qlora": (LLAMA_1B, 1_235_814_400),
    "nli_fr_qwen3": (QWEN3, 596_049_920),
    "nli_fr_reference": (LLAMA_1B, 1_235_814_400),
    "nli_fr_smollm2_cpu": (SMOLLM2, 134_515_008),
    "nli_fr_smollm3": (SMOLLM3, 3_075_098_624),
}
"""The shape of each recipe's model, and its published number of parameters."""
TASK_RECIPES = {"qa_nli", "sentiment_fr", "stance", "topics"}  # tests/end_to_end/test_task_recipes.py runs them
ENCODER_RECIPES = {"nli_fr_camembert"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """French rows in place of XNLI-fr's, for training and for evaluation."""
    folder = tmp_path_factory.mktemp("rows")
    files = {"train": folder / "train.jsonl", "eval": folder / "eval.jsonl"}
    for split, file in (("train", files["train"]), ("dev", files["eval"])):
        lines = [json.dumps(row, ensure_ascii=False) for row in nli_fr.load_split(split)[:96]]
        file.write_text("\n".join(lines), encoding="utf-8")
    return files


def test_every_recipe_has_a_shape() -> None:
    names = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert names == SHAPES.keys() | TASK_RECIPES | ENCODER_RECIPES | {"quickstart"}


@pytest.mark.parametrize("name", SHAPES)
def test_recipe_passes_preflight(name: str, rows: dict[str, Path], tmp_path: Path) -> None:
    """Without weights: the shape decides memory and parameters. The embedded tokenizer takes the real one's place."""
    fields, parameters = dict(SHAPES[name][0]), SHAPES[name][1]
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # after Unsloth

    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[fields["model_type"]]
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, architectures=[architecture], dtype="bfloat16")
    config.save_pretrained(tmp_path)
    load_tokenizer(MODEL_FOLDER).save_pretrained(tmp_path)
    overrides = {f"data.{split}": {"path": str(file)} for split, file in rows.items()}
    overrides |= {"model.name": str(tmp_path)}
    report = toolkit.preflight(ROOT / "recipes" / f"{name}.yaml", overrides, memory=16_000_000_000)
    assert report.fits and not report.export_problem
    assert report.total_parameters - report.trainable_parameters == parameters
