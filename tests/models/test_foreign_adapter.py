"""Adapters of other tools that do not fit: each is refused by name with one sentence, before anything is written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.foreign_adapters import UNSLOTH_TARGETS, edit_config, train_decoder_adapter
from toolkit.errors import ModelError
from toolkit.models import foreign_adapter
from toolkit.models.foreign_adapter import find_adapter, read_foreign_adapter

Call = Callable[..., tuple[int, str, str]]
Tensors = dict[str, torch.Tensor]
LAYER = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "lora"
    return train_decoder_adapter(tiny_model, folder, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


OPTIONS: dict[str, tuple[Any, str]] = {
    "peft_type": ("LOHA", "peft_type 'LOHA', but only LORA"),
    "task_type": ("SEQ_2_SEQ_LM", "task_type 'SEQ_2_SEQ_LM', but the recipe's model.kind decoder needs CAUSAL_LM"),
    "bias": ("all", "bias to 'all': biases of the base were trained"),
    "alora_invocation_tokens": ([1, 2], "an aLoRA adapts only the tokens after"),
    "rank_pattern": ({"q_proj": 4}, "different ranks"),
    "alpha_pattern": ({"(a+)+$": 4}, "different values of alpha"),
    "trainable_token_indices": ([5], "the embeddings of some tokens"),
    "lora_bias": (True, "have biases"),
    "layer_replication": ([[0, 2]], "repeats layers"),
    "target_parameters": (["mlp.experts.gate_up_proj"], "mixture of experts"),
    "loftq_config": ({"loftq_bits": 4}, "LoftQ changes the weights of the base"),
    "eva_config": ({"rho": 2.0}, "EVA cannot be told apart"),
    "corda_config": ({"corda_method": "kpm"}, "CorDA changes the weights"),
    "lora_ga_config": ({"direction": "ArBr"}, "LoRA-GA changes the weights"),
    "use_qalora": (True, "tied to quantized weights"),
    "megatron_config": ({"a": 1}, "layers of Megatron"),
    "fan_in_fan_out": (True, "as in GPT-2"),
    "an_option_of_the_future": ({"a": 1}, "this option is not known"),
    "modules_to_save": (["embed_tokens", "lm_head"], "modules_to_save embed_tokens, lm_head, which were trained"),
    "lora_alpha": (12.5, "12.5 for lora_alpha"),
    "lora_dropout": (1.5, "1.5 for lora_dropout"),
    "r": ("8", "'8' for r"),
    "use_dora": (1, "1 for use_dora"),
    "auto_map": ({"AutoModel": "x.Y"}, "custom code (auto_map), which is never run"),
}  # fmt: skip


@pytest.mark.parametrize("key", OPTIONS)
def test_other_kinds_are_refused_by_name(adapter: Path, key: str) -> None:
    value, message = OPTIONS[key]
    edit_config(adapter, **{key: value})
    with pytest.raises(ModelError, match=re.escape(message)) as error:
        read_foreign_adapter(adapter, "decoder")
    assert error.value.hint and str(adapter) in str(error.value)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "IA3", "LOHA", "ADALORA", None])
def test_other_methods_are_refused_by_name(adapter: Path, kind: str | None) -> None:
    edit_config(adapter, peft_type=kind)
    with pytest.raises(ModelError, match=f"peft_type {kind!r}, but only LORA can be used"):
        read_foreign_adapter(adapter, "decoder")


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_16", "olora", "loftq", "corda", "eva", "lora_ga", "mica", {"a": 1}]
)
def test_changed_bases_are_refused_with_conversion(adapter: Path, start: Any) -> None:
    edit_config(adapter, init_lora_weights=start)
    with pytest.raises(ModelError, match="can change the base model's weights") as error:
        read_foreign_adapter(adapter, "decoder")
    assert "path_initial_model_for_weight_conversion" in str(error.value.hint)


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_missing_numbers_are_refused(adapter: Path, key: str) -> None:
    edit_config(adapter, **{key: "absent"})
    with pytest.raises(ModelError, match=f"has None for {key}"):
        read_foreign_adapter(adapter, "decoder")


def test_patterns_are_never_matched(adapter: Path) -> None:
    """The layers are read from the tensors: this pattern would take years on a name that it does not match."""
    edit_config(adapter, target_modules="(a+)+(a+)+(a+)+$", exclude_modules="(a+)+$")
    assert read_foreign_adapter(adapter, "decoder").layer_names == ["q_proj", "v_proj"]
    edit_config(adapter, target_modules=UNSLOTH_TARGETS)
    assert read_foreign_adapter(adapter, "decoder").lora["target_modules"] == ["q_proj", "v_proj"]


def edit_weights(adapter: Path, edit: Callable[[Tensors], Tensors]) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in edit(load_file(path)).items()}, path)


def without_layer_1(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "NaN": (lambda tensors: tensors | {LAYER.format(0, "A"): torch.full((8, 64), torch.nan)}, "has NaN or inf in"),
    "inf": (lambda tensors: tensors | {LAYER.format(1, "B"): torch.full((128, 8), torch.inf)}, "has NaN or inf in"),
    "some layers": (without_layer_1, "(and 3 more tensors), but a recipe can only describe adapters of all layers"),
    "fewer inputs": (
        lambda tensors: tensors | {LAYER.format(0, "A"): torch.ones(8, 32)},
        "has the shape [8, 32], but the model needs [8, 64]",
    ),
    "empty": (lambda tensors: tensors | {LAYER.format(0, "A"): torch.ones(0)}, "does not have two LoRA matrices"),
    "another rank": (lambda tensors: tensors | {LAYER.format(0, "A"): torch.ones(4, 64)}, "has rank 4 and 8, but r is"),
    "more layers": (renamed(".layers.1.", ".layers.2."), "the model has no layer for base_model.model.model.layers.2."),
    "a vision model": (renamed("model.model.", "model.model.language_model."), "the model has no layer for"),
    "an embedding": (
        lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": torch.ones(4, 4)},
        "embed_tokens.weight, which is not a LoRA matrix",
    ),
    "a LoRA of embeddings": (
        lambda tensors: tensors | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 4)},
        "adapts an embedding",
    ),
    "a head": (renamed("model.layers.1.self_attn.v_proj", "lm_head"), "adapts lm_head, "),
    "integers": (lambda tensors: {name: tensor.int() for name, tensor in tensors.items()}, "is stored as I32"),
    "nothing": (lambda tensors: {}, "contains no LoRA weights"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_tensors_that_do_not_fit_are_refused(
    adapter: Path, recipe_file: Path, tmp_path: Path, call: Call,
    edit: Callable[[Tensors], Tensors], message: str,
) -> None:  # fmt: skip
    edit_weights(adapter, edit)
    if "lm_head" in message:
        edit_config(adapter, target_modules=["q_proj", "v_proj", "lm_head"])
    code, _, error = call("import_adapter", adapter, recipe_file, "--output-dir", tmp_path / "run")
    assert code == 2 and message in error and error.count("error:") == 1 and "hint:" in error, error
    assert not (tmp_path / "run").exists()


def pickled(adapter: Path) -> Path:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    return adapter


def complete_model(adapter: Path) -> Path:
    (adapter / "adapter_config.json").rename(adapter / "config.json")
    return adapter


def run_folder(adapter: Path) -> Path:
    (adapter.parent / "outputs").mkdir()
    adapter.rename(adapter.parent / "outputs" / "checkpoint-4")
    return adapter.parent / "outputs"


def not_json(adapter: Path) -> Path:
    (adapter / "adapter_config.json").write_text("{", encoding="utf-8")
    return adapter


FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pickled": (pickled, "pickled .bin files are not read"),
    "complete model": (complete_model, "is a complete model (it has a config.json but no adapter_config.json)"),
    "folder of checkpoints": (run_folder, "checkpoint-4."),
    "missing": (lambda adapter: adapter / "nothing", "does not exist"),
    "file": (lambda adapter: adapter / "adapter_config.json", "is a file"),
    "damaged": (not_json, "cannot be read"),
}


@pytest.mark.parametrize(("edit", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_other_folders_are_refused_by_name(
    adapter: Path, recipe_file: Path, tmp_path: Path, call: Call, edit: Callable[[Path], Path], message: str
) -> None:
    code, _, error = call("import_adapter", edit(adapter), recipe_file, "--output-dir", tmp_path / "run")
    assert code == 2 and message in error and error.count("error:") == 1, error
    assert not (tmp_path / "run").exists()


OVERRIDES = [
    ("lora.r=4", "--set lora.r is 4, but the adapter has 8"),
    ("lora.target_modules=[q_proj]", "is ['q_proj'], but the adapter has ['q_proj', 'v_proj']"),
    ("lora={r: 2}", "--set lora.r is 2, but the adapter has 8"),
    ("lora.use_dora=true", "--set lora.use_dora is True, but the adapter has False"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_contradicting_overrides_are_refused(
    plain: Path, recipe_file: Path, tmp_path: Path, call: Call, override: str, message: str
) -> None:
    arguments = [plain, recipe_file, "--output-dir", tmp_path / "run", "--set", override]
    code, _, error = call("import_adapter", *arguments)
    assert code == 2 and message in error and not (tmp_path / "run").exists(), error


def test_hub_adapters_are_checked_before_download(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is read first, so the weights of a complete model are not downloaded."""
    asked: list[list[str]] = []

    def download(name: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append(list(patterns))
        return adapter

    monkeypatch.setattr(foreign_adapter, "download", download)
    assert find_adapter("somebody/adapter") == adapter
    assert "adapter_model.safetensors" not in asked[0] and "adapter_model.safetensors" in asked[1]
    assert not [pattern for pattern in asked[1] if pattern.endswith((".bin", ".pt", "*"))]
    asked.clear()
    complete_model(adapter)
    with pytest.raises(ModelError, match="is a complete model"):
        find_adapter("somebody/model")
    assert len(asked) == 1


def test_options_of_this_peft_are_known(plain: Path) -> None:
    """An option that a new version of PEFT turns on by default would make all adapters unusable."""
    config = json.loads((plain / "adapter_config.json").read_text(encoding="utf-8"))
    assert len(config) > 30
    read_foreign_adapter(plain, "decoder")
