"""Adapters: kinds that the toolkit does not train, impossible values and damaged files are refused, each by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ModelError
from toolkit.models.adapter_checks import check_adapter
from toolkit.models.backend import LoraConfig
from toolkit.runs.run_folder import RunFolder

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def adapter(trained: RunFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.adapter, tmp_path / "adapter"))


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}), encoding="utf-8")


def edit_weights(adapter: Path, edit: Callable[[Tensors], Tensors]) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(edit(load_file(path)), path)


@pytest.mark.parametrize("run", ["trained", "trained_encoder"])
def test_adapters_of_runs_are_accepted(request: pytest.FixtureRequest, run: str) -> None:
    check_adapter(request.getfixturevalue(run).adapter)


def test_options_of_a_recipe_are_accepted(adapter: Path) -> None:
    # On a GPU, Unsloth recorded the class of the base model.
    library = "transformers.models.llama.modeling_llama"
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": library, "unsloth_fixed": True}
    edit_config(adapter, use_rslora=True, lora_dropout=0.5, lora_alpha=7, newer_option=None, auto_mapping=mapping)
    check_adapter(adapter)


OTHER_KINDS: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2], "layer_replication": [[0, 2], [1, 2]], "lora_bias": True,
    "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"(a+)+$": 8}, "trainable_token_indices": [1], "use_qalora": True,
    "eva_config": {"rho": 2.0}, "corda_config": {"corda_method": "kpm"}, "loftq_config": {"loftq_bits": 4},
    "lora_ga_config": {"direction": "ArBr"}, "megatron_config": {"a": 1}, "exclude_modules": "(a+)+$",
    "layers_to_transform": [0], "layers_pattern": "layers", "target_parameters": ["x"], "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3}, "kasa_config": {"beta": 1.0}, "velora_config": {"scale": 1.0},
    "monteclora_config": {"num_samples": 1}, "ensure_weight_tying": True, "fan_in_fan_out": True,
"an_option_of_the_future": 1, "modules_to_save": ["lm_head"],
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER_KINDS)
def test_other_kinds_of_adapters_are_refused(adapter: Path, key: str) -> None:
    edit_config(adapter, **{key: OTHER_KINDS[key]})
    with pytest.raises(ModelError, match=rf"adapter_config.json (sets {key} to|has {key},)"):
        check_adapter(adapter)


INVALID_VALUES = [
    ("peft_type", "LOHA"), ("peft_type", None), ("task_type", "SEQ_2_SEQ_LM"), ("r", 0), ("r", True), ("r", "4"),
    ("r", 10**30), ("lora_alpha", 0), ("lora_alpha", -8), ("lora_alpha", "8"), ("lora_alpha", float("nan")),
    ("lora_alpha", 10**400), ("lora_dropout", 1.5), ("lora_dropout", None), ("target_modules", "(a+)+$"),
    ("target_modules", "all-linear"), ("target_modules", []), ("target_modules", ["(a+)+$"]),
    ("target_modules", [1]), ("target_modules", {}), ("modules_to_save", "(a+)+$"), ("use_rslora", "yes"),
    ("use_dora", 1), ("bias", "all"), ("init_lora_weights", "pissa"), ("init_lora_weights", "pissa_niter_4"),
    ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"), ("init_lora_weights", "eva"),
    ("init_lora_weights", "corda"), ("init_lora_weights", "orthogonal"), ("init_lora_weights", {}),
    ("auto_mapping", {"base_model_class": "X"}), ("auto_mapping", {"parent_library": "os"}), ("auto_mapping", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), INVALID_VALUES)
def test_invalid_adapter_values_are_refused(adapter: Path, key: str, value: Any) -> None:
    edit_config(adapter, **{key: value})
    with pytest.raises(ModelError, match=rf"adapter_config.json has an invalid value for {key}: "):
        check_adapter(adapter)


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_missing_adapter_values_are_refused(adapter: Path, key: str) -> None:
    edit_config(adapter, **{key: "absent"})
    with pytest.raises(ModelError, match=f"adapter_config.json has no {key}"):
        check_adapter(adapter)


def test_default_options_of_peft_are_accepted(tmp_path: Path, adapter: Path) -> None:
    """An option that a new version of PEFT turns on by default would make the adapters of all runs unusable."""
    LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM").save_pretrained(
        str(tmp_path)
    )
    shutil.copy(tmp_path / "adapter_config.json", adapter)
    check_adapter(adapter)


def flip(tensors: Tensors) -> Tensors:
    return {name.replace("lora_", "lora_Z"): tensor for name, tensor in tensors.items()}


def cut(tensors: Tensors) -> Tensors:
    return {name: tensor[:2].clone() if "lora_A" in name else tensor for name, tensor in tensors.items()}


def flatten(tensors: Tensors) -> Tensors:
    return {name: tensor.flatten() for name, tensor in tensors.items()}


def round_off(tensors: Tensors) -> Tensors:
    """Store integers, of which PEFT would take all that are 0 and answer like the base model."""
    return {name: tensor.to(torch.int8) for name, tensor in tensors.items()}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda adapter: truncate(adapter, 0.5), "is damaged: "),
    "truncated header": (lambda adapter: truncate(adapter, 0.0001), "is damaged: "),
    "empty": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b""), "is damaged: "),
    "not safetensors": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"x" * 999), "is damaged"),
    "longer": (lambda adapter: truncate(adapter, 1.5), "is damaged: "),
    "no tensors": (lambda adapter: edit_weights(adapter, lambda _: {}), "contains no LoRA weights"),
    "other names": (lambda adapter: edit_weights(adapter, flip), "contains no LoRA weights"),
    "another rank": (lambda adapter: edit_weights(adapter, cut), "has rank 2 and 4, but r is 4 in adapter_config.json"),
    "another r": (lambda adapter: edit_config(adapter, r=8), "has rank 4 and 4, but r is 8 in adapter_config.json"),
    "one dimension": (lambda adapter: edit_weights(adapter, flatten), "does not have two LoRA matrices"),
    "integers": (lambda adapter: edit_weights(adapter, round_off), "is stored as I8"),
    "fewer targets": (lambda adapter: edit_config(adapter, target_modules=["q_proj", "v_proj", "o_proj"]),
                      "adapts k_proj, which is not one of target_modules"),
    "no DoRA": (lambda adapter: edit_config(adapter, use_dora=True), "use_dora in adapter_config.json is True"),
    "half a layer": (lambda adapter: edit_weights(adapter, lambda tensors: dict(list(tensors.items())[1:])),
                     "does not have two LoRA matrices"),
}  # fmt: skip


def truncate(adapter: Path, share: float) -> None:
    path = adapter / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes((content * 2)[: int(len(content) * share)])


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_adapters_are_reported_as_damaged(
    adapter: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=message) as error:
        check_adapter(adapter)
    assert "was not trained on this base model" not in str(error.value) and error.value.hint
