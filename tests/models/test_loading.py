"""Loading and merging: models are loaded as requested, and a merged model answers like the adapter."""

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
FLOAT32 = Precision("float32", "test")
IDS = torch.tensor([[1, 5, 9, 12, 40, 41, 42]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def test_4_bit_models_train_float32_adapters(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    recipe = make_recipe("model.load_in_4bit=true")
    model = attach_lora(load_base(tiny_model, recipe, FLOAT32), recipe.lora, seed=1, gradient_checkpointing=False)
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {torch.float32}


def test_evaluation_does_not_change_4_bit_training(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    # On a CPU, bitsandbytes repacks 4-bit weights in the first forward pass without gradients, after which training is
    # wrong. Unsloth prevents that.
    recipe = make_recipe("model.load_in_4bit=true", "model.dtype=bfloat16")
    bfloat16 = Precision("bfloat16", "test")
    gradients = []
    for evaluates_first in (False, True):
        model = attach_lora(load_base(tiny_model, recipe, bfloat16), recipe.lora, seed=1, gradient_checkpointing=False)
        if evaluates_first:
            model.eval()
            logits(model)
            model.train()
        model(IDS, labels=IDS).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_initial_adapter_depends_on_the_seed(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    recipe = make_recipe()

    def first_matrix(seed: int) -> torch.Tensor:
        model = attach_lora(
            load_base(tiny_model, recipe, FLOAT32), recipe.lora, seed=seed, gradient_checkpointing=False
        )
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_matrix(1), first_matrix(1))
    assert not torch.equal(first_matrix(1), first_matrix(2))


def test_merged_model_matches_adapter(
    trained: RunFolder, tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """The logits of the merged model are those of the adapter on its base, and clearly not those of the base."""
    merge_adapter(tiny_model, trained.adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert {t.dtype for t in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.bfloat16}
    recipe = make_recipe()
    adapted = logits(load_for_scoring(tiny_model, recipe, FLOAT32, trained.adapter))
    base = logits(load_for_scoring(tiny_model, recipe, FLOAT32, None))
    change = (adapted - base).abs().max()
    assert change > 0.5, "the adapter must matter for this test to mean anything"
    # bfloat16 has 8 bits of precision, so the rounding error is small compared with the effect of the adapter.
    assert (logits(merged) - adapted).abs().max() < 0.1 * change


def test_mismatched_adapters_are_an_error(
    trained: RunFolder, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = make_recipe()
    with pytest.raises(ModelError, match="was not trained on this base model"):
        load_for_scoring(find_model("embedded:tiny-llama-fr"), recipe, FLOAT32, trained.adapter)
    partial = tmp_path / "adapter"
    shutil.copytree(trained.adapter, partial)
    tensors = load_file(partial / "adapter_model.safetensors")
    layer = next(iter(tensors)).split(".lora_")[0]
    save_file(
        {name: tensor for name, tensor in tensors.items() if layer not in name}, partial / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="2 tensors do not match"):
        load_for_scoring(tiny_model, recipe, FLOAT32, partial)


def test_damaged_weights_are_an_error(
    trained: RunFolder, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(trained.adapter, tmp_path / "adapter")
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    recipe = make_recipe()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(tmp_path / "model", recipe, FLOAT32)
    with pytest.raises(ModelError, match="cannot be loaded"):
        merge_adapter(tmp_path / "model", trained.adapter, tmp_path / "merged")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors is damaged: .*incomplete"):
        load_for_scoring(tiny_model, recipe, FLOAT32, tmp_path / "adapter")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "There is no model folder /nowhere/model"),
        ("./model", "There is no model folder"),
        ("embedded:other", "There is no embedded model"),
        ("nobody/no-such-model", "neither a local folder nor reachable on the Hub"),
        ("not a name", "neither a local folder nor reachable on the Hub"),
    ],
)
def test_missing_models_are_an_error(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message):
        find_model(name)


def test_pickled_weights_are_not_read(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="no safetensors weights"):
        find_model(str(tmp_path))


def test_weights_of_other_shapes_are_named(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-10]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights have other shapes than config\.json implies"):
        load_base(tmp_path / "model", make_recipe(), FLOAT32)
