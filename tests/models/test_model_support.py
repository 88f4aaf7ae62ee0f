"""Models that cannot be trained are refused by their configuration alone, without weights, tokenizer or rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ModelError
from toolkit.models.families import FAMILIES
from toolkit.models.model_folder import find_model
from toolkit.models.model_support import check_supported, is_quantized
from toolkit.planning.preflight import run_preflight
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
GPTQ, AWQ, FP8 = ({"quant_method": method, "bits": 4} for method in ("gptq", "awq", "fp8"))
BITS_4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BITS_8 = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


def of(model_type: str, architecture: str, **values: Any) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [architecture], **values}


NOT_DECODERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "vision": (of("gemma3", "Gemma3ForConditionalGeneration", vision_config={"model_type": "siglip_vision_model"}),
               "is a multimodal model (Gemma3ForConditionalGeneration with vision_config)", "text-only"),
    "audio": (of("gemma3n", "Gemma3nForConditionalGeneration"), "with audio_config and vision_config", "text-only"),
    "T5": (of("t5", "T5ForConditionalGeneration"), "is an encoder-decoder (T5ForConditionalGeneration)", "Qwen3"),
    "BART": (of("bart", "BartForConditionalGeneration"), "is an encoder-decoder", "Qwen3"),
    "mBART": (of("mbart", "MBartForCausalLM"), "is an encoder-decoder (MBartForCausalLM)", "Qwen3"),
    "Mixtral": (of("mixtral", "MixtralForCausalLM"), "mixture-of-experts model (MixtralForCausalLM with 8", "dense"),
    "Qwen3 MoE": (of("qwen3_moe", "Qwen3MoeForCausalLM"), "with 128 experts)", "dense"),
    "DeepSeek": (of("deepseek_v3", "DeepseekV3ForCausalLM"), "with 256 experts)", "dense"),
    "GPT-OSS": (of("gpt_oss", "GptOssForCausalLM"), "with 128 experts)", "dense"),
    "DBRX": (of("dbrx", "DbrxForCausalLM", ffn_config={"moe_num_experts": 16}), "with 16 experts)", "dense"),
    "GPTQ": (LLAMA | {"quantization_config": GPTQ}, "is stored quantized (gptq)", "unquantized"),
    "AWQ": (LLAMA | {"quantization_config": AWQ}, "is stored quantized (awq)", "load_in_4bit: true"),
    "FP8": (LLAMA | {"quantization_config": FP8}, "is stored quantized (fp8)", "unquantized"),
    "8 bits": (LLAMA | {"quantization_config": BITS_8}, "is stored quantized (bitsandbytes)", "unquantized"),
    "compressed": (LLAMA | {"compression_config": {"quant_method": "compressed-tensors"}}, "(compressed-tensors)",
                   "unquantized"),
    "4 bits": (LLAMA | {"quantization_config": BITS_4}, "in 4 bits (bitsandbytes), but model.load_in_4bit is false",
               "Set model.load_in_4bit: true"),
    "BERT": (BERT, "is an encoder (BertForMaskedLM), but model.kind is decoder", "model.kind: encoder"),
    "bare BERT": (of("bert", "BertModel"), "is an encoder (BertModel)", "model.kind: encoder"),
    "ELECTRA": (of("electra", "ElectraForPreTraining"), "is an encoder (ElectraForPreTraining)", "kind: encoder"),
    "XLM": (of("xlm", "XLMWithLMHeadModel"), "is an encoder (XLMWithLMHeadModel)", "model.kind: encoder"),
    "encoder head": (of("camembert", "CamembertForSequenceClassification"), "is an encoder", "kind: encoder"),
    "decoder head": (of("llama", "LlamaForSequenceClassification"),
                     "was saved for a task other than text generation", "fine-tuned from"),
    "no window": (of("gemma3_text", "Gemma3ForCausalLM", sliding_window=None), "sliding_window is null", "Copy"),
    "Mamba": (of("mamba", "MambaForCausalLM"), "keep a state instead of attending (MambaForCausalLM)", "attention"),
    "Qwen3.5": (of("qwen3_5_text", "Qwen3_5ForCausalLM"), "keep a state", "attention"),
    "Falcon H1": (of("falcon_h1", "FalconH1ForCausalLM"), "keep a state", "attention"),
    "LFM2": (of("lfm2", "Lfm2ForCausalLM", layer_types=["conv", "full_attention"], num_hidden_layers=2),
             "keep a state", "attention"),
}  # fmt: skip
NOT_ENCODERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "Llama": (LLAMA, "is a decoder (LlamaForCausalLM), but model.kind is encoder", "model.kind: decoder"),
    "decoder head": (of("qwen3", "Qwen3ForSequenceClassification"), "is a decoder", "model.kind: decoder"),
    "T5": (of("t5", "T5EncoderModel"), "is an encoder-decoder (T5EncoderModel)", "CamemBERT"),
    "4 bits": (BERT | {"quantization_config": BITS_4}, "(bitsandbytes), but adapters are trained only on 16- or 32-bit",
               "unquantized"),
    "CLIP": (of("clip", "CLIPModel"), "is a multimodal model", "text-only"),
}  # fmt: skip


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def check_refusal(recipe: Recipe, message: str, hint: str) -> None:
    """Check that the preflight refuses a recipe in one sentence that names the model."""
    with pytest.raises(ModelError) as error:
        run_preflight(recipe)
    text = str(error.value)
    assert text.startswith(f"{recipe.model.name} ") and message in text and "\n" not in text
    assert hint in str(error.value.hint)


@pytest.mark.parametrize(("values", "message", "hint"), NOT_DECODERS.values(), ids=NOT_DECODERS.keys())
def test_unsupported_decoders_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, values: dict[str, Any], message: str, hint: str
) -> None:
    check_refusal(make_recipe(f"model.name={write_config(tmp_path / 'm', values)}"), message, hint)


@pytest.mark.parametrize("window", [0, -5, 10**12])
def test_impossible_windows_are_refused(make_recipe: MakeRecipe, tmp_path: Path, window: int) -> None:
    write_config(tmp_path / "m", of("mistral", "MistralForCausalLM", sliding_window=window))
    with pytest.raises(ModelError, match=f"impossible value for sliding_window: {window}"):
        run_preflight(make_recipe(f"model.name={tmp_path / 'm'}"))


def test_reasons_on_a_second_line_are_shown(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    write_config(tmp_path / "m", LLAMA | {"rms_norm_eps": "x"})
    with pytest.raises(ModelError, match=r"field 'rms_norm_eps': TypeError: .* got str"):
        run_preflight(make_recipe(f"model.name={tmp_path / 'm'}"))


@pytest.mark.parametrize(("values", "message", "hint"), NOT_ENCODERS.values(), ids=NOT_ENCODERS.keys())
def test_unsupported_encoders_are_refused(
    make_encoder_recipe: MakeRecipe, tmp_path: Path, values: dict[str, Any], message: str, hint: str
) -> None:
    check_refusal(make_encoder_recipe(f"model.name={write_config(tmp_path / 'm', values)}"), message, hint)


DENSE = ("Phi3ForCausalLM", "GPTNeoXForCausalLM", "GPT2LMHeadModel", "Olmo2ForCausalLM", "GraniteForCausalLM")


@pytest.mark.parametrize("architecture", [*FAMILIES, *DENSE, "LlamaModel"])
def test_dense_decoders_are_supported(make_recipe: MakeRecipe, tmp_path: Path, architecture: str) -> None:
    import transformers

    model_class = getattr(transformers, architecture)
    write_config(tmp_path, {**model_class.config_class().to_diff_dict(), "architectures": [architecture]})
    check_supported(tmp_path, make_recipe(f"model.name={tmp_path}"))


@pytest.mark.parametrize(
    "architecture",
    ["BertModel", "CamembertForMaskedLM", "DebertaV2Model", "ModernBertForMaskedLM", "ElectraForPreTraining",
     "DistilBertForSequenceClassification", "XLMRobertaModel"],
)  # fmt: skip
def test_encoders_are_supported(make_encoder_recipe: MakeRecipe, tmp_path: Path, architecture: str) -> None:
    import transformers

    model_type = getattr(transformers, architecture).config_class.model_type
    write_config(tmp_path, of(model_type, architecture))
    (tmp_path / "modules.json").write_text("[]", encoding="utf-8")  # of sentence-transformers, e.g. MiniLM
    check_supported(tmp_path, make_encoder_recipe(f"model.name={tmp_path}"))


def test_4_bit_checkpoints_train_in_4_bits(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA | {"quantization_config": BITS_4})
    check_supported(tmp_path, make_recipe(f"model.name={tmp_path}", "model.load_in_4bit=true"))
    assert is_quantized(tmp_path) and not is_quantized(write_config(tmp_path / "16-bit", LLAMA))


def test_embedding_models_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Qwen3-Embedding is saved like a decoder, but its hidden states were trained for another purpose."""
    write_config(tmp_path, of("qwen3", "Qwen3ForCausalLM"))
    (tmp_path / "modules.json").write_text("[]", encoding="utf-8")
    check_refusal(make_recipe(f"model.name={tmp_path}"), "is an embedding model", "model.kind: encoder")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "model-q8_0.gguf"])
def test_other_weight_formats_are_refused(make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    file = write_config(tmp_path / "m", LLAMA) / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    recipe = make_recipe(f"model.name={tmp_path / 'm'}")
    check_refusal(recipe, f"stores its weights in {file.name}, but only safetensors", "converted from")
    (tmp_path / "m" / "config.json").unlink()
    file.rename(tmp_path / "m" / file.name)
    with pytest.raises(ModelError, match=f"has no config.json, only {file.suffix[1:].upper()} files"):
        run_preflight(recipe)


@pytest.mark.parametrize("name", ["x.gguf", "somebody/model-GGUF", "FILE"])
def test_files_are_not_models(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is not a model folder, and weights in other formats, such as GGUF"):
        find_model(name.replace("FILE", str(tmp_path / "file")))
