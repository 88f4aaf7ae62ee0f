"""Merging: the sum is computed in float32 and rounded once to the base's data type."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.merging import merge_adapter, merged_type
from toolkit.models.parameters import model_config
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "f16"), (torch.float32, "f32")], ids=str
)
def test_merged_weights_are_rounded_once(
    dtype: torch.dtype, name: str, trained: RunFolder, tiny_model: Path, tmp_path: Path
) -> None:
    base, merged = tmp_path / "base", tmp_path / "merged"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).save_pretrained(base)
    load_tokenizer(tiny_model).save_pretrained(base)
    merge_adapter(base, trained.adapter, merged)
    assert merged_type(model_config(base)) == merged_type(model_config(merged)) == name
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    adapter = load_file(trained.adapter / "adapter_model.safetensors")
    config = json.loads((trained.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / config["r"]
    assert before.keys() == after.keys()
    changed = 0
    for key, weight in before.items():
        prefix = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in adapter:
            assert torch.equal(after[key], weight)
            continue
        changed += 1
        update = adapter[f"{prefix}.lora_B.weight"].float() @ adapter[f"{prefix}.lora_A.weight"].float() * scale
        exact = weight.float() + update
        assert after[key].dtype == dtype and update.abs().max() > 0.01
        # Half a unit in the last place of 8, 11 or 24 bits. The constant allows for float32 sums in another order.
        bound = exact.abs() * torch.finfo(dtype).eps / 2 + 1e-6
        assert ((after[key].float() - exact).abs() <= bound).all()
    assert changed == 8
