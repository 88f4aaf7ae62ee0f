"""Loading and merging: what was asked for is what is loaded, and a merged model answers like the adapter."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ModelError
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.loading import attach_lora, load_base, load_for_scoring
from toolkit.models.merging import merge_adapter
from toolkit.models.model_folder import find_model
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

MakeRecipe = Callable[..., Recipe]
FULL = Precision("float32", "test")
IDS = torch.tensor([[1, 5, 9, 12, 40, 41, 42]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def test_4_bit_is_4_bit_and_its_adapter_trains_in_float32(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    recipe = make_recipe("model.load_in_4bit=true")
    model = attach_lora(load_base(tiny_model, recipe, FULL), recipe.lora, seed=1, gradient_checkpointing=False)
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {torch.float32}


def test_evaluating_a_4_bit_model_leaves_its_training_unchanged(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    # bitsandbytes on a CPU repacks 4-bit weights in the first forward pass without gradient, unless Unsloth stops it.
    recipe = make_recipe("model.load_in_4bit=true", "model.dtype=bfloat16")
    half = Precision("bfloat16", "test")
    gradients = []
    for evaluates_first in (False, True):
        model = attach_lora(load_base(tiny_model, recipe, half), recipe.lora, seed=1, gradient_checkpointing=False)
        if evaluates_first:
            model.eval()
            logits(model)
            model.train()
        model(IDS, labels=IDS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_the_seed_decides_the_adapters_beginning(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    recipe = make_recipe()

    def first_matrix(seed: int) -> torch.Tensor:
        model = attach_lora(load_base(tiny_model, recipe, FULL), recipe.lora, seed=seed, gradient_checkpointing=False)
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_matrix(1), first_matrix(1))
    assert not torch.equal(first_matrix(1), first_matrix(2))


def test_a_merged_model_is_the_adapter_on_its_base_and_not_the_base(
    trained: RunFolder, tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    merge_adapter(tiny_model, trained.adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert {t.dtype for t in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.bfloat16}
    recipe = make_recipe()
    adapted = logits(load_for_scoring(tiny_model, recipe, FULL, trained.adapter))
    base = logits(load_for_scoring(tiny_model, recipe, FULL, None))
    change = (adapted - base).abs().max()
    assert change > 0.5, "the adapter must matter for this test to mean anything"
    # bfloat16 keeps 8 bits: what rounding leaves is small beside what the adapter changes.
    assert (logits(merged) - adapted).abs().max() < 0.1 * change


def test_an_adapter_of_another_shape_is_refused(
    trained: RunFolder, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = make_recipe()
    with pytest.raises(ModelError, match="was not trained on this base model"):
        load_for_scoring(find_model("embedded:tiny-llama-fr"), recipe, FULL, trained.adapter)
    partial = tmp_path / "adapter"
    shutil.copytree(trained.adapter, partial)
    tensors = load_file(partial / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, partial / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="1 tensors differ by name"):
        load_for_scoring(tiny_model, recipe, FULL, partial)


def test_a_damaged_model_or_adapter_is_refused(
    trained: RunFolder, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(trained.adapter, tmp_path / "adapter")
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    recipe = make_recipe()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(tmp_path / "model", recipe, FULL)
    with pytest.raises(ModelError, match="cannot be loaded"):
        merge_adapter(tmp_path / "model", trained.adapter, tmp_path / "merged")
    with pytest.raises(ModelError, match="was not trained on this base model"):
        load_for_scoring(tiny_model, recipe, FULL, tmp_path / "adapter")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/nowhere/model", "There is no model folder /nowhere/model"),
        ("./model", "There is no model folder"),
        ("embedded:other", "There is no embedded model"),
        ("nobody/no-such-model", "neither a local folder nor reachable on the hub"),
        ("not a name", "neither a local folder nor reachable on the hub"),
    ],
)
def test_a_model_that_is_not_there_is_refused(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=sentence):
        find_model(name)


def test_pickled_weights_are_not_read(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="no safetensors weights"):
        find_model(str(tmp_path))
