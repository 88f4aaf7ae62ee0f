"""Encoders for training: their adapter, their head and their data types. Families are in test_encoder_families.py."""

from collections.abc import Callable
from pathlib import Path

import torch

from toolkit.models.backend import AutoModelForSequenceClassification
from toolkit.models.encoder import attach_encoder_lora, load_encoder
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Recipe

FLOAT32 = Precision("float32", "test")


def test_head_layers_get_no_adapter(make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path) -> None:
    """Layers of the head get no adapter even if a target module has their name, because they are trained in full."""
    recipe = make_encoder_recipe("lora.target_modules=[dense]")
    adapted = attach_encoder_lora(load_encoder(tiny_encoder, recipe, FLOAT32), recipe.lora, seed=1)
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 3 * 2 and not any("classifier" in name for name in names)


def test_head_and_adapter_depend_on_the_seed(make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path) -> None:
    def initial_weights(seed: int) -> torch.Tensor:
        recipe = make_encoder_recipe(f"seed={seed}")
        torch.manual_seed(seed + 10)  # earlier random numbers must not matter
        model = attach_encoder_lora(load_encoder(tiny_encoder, recipe, FLOAT32), recipe.lora, seed=seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(initial_weights(1), initial_weights(1))
    assert not torch.equal(initial_weights(1), initial_weights(2))


def test_a_head_for_other_labels_is_replaced(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path, tmp_path: Path
) -> None:
    recipe = make_encoder_recipe()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=5)
    model.save_pretrained(tmp_path)
    assert load_encoder(tmp_path, recipe, FLOAT32).classifier.out_proj.weight.shape == (3, 32)


def test_16_bit_bases_train_in_float32(make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path) -> None:
    recipe = make_encoder_recipe()
    bfloat16 = Precision("bfloat16", "test")
    adapted = attach_encoder_lora(load_encoder(tiny_encoder, recipe, bfloat16), recipe.lora, seed=1)
    dtypes = {(p.requires_grad, p.dtype) for p in adapted.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    whole = load_encoder(tiny_encoder, make_encoder_recipe("lora=null"), bfloat16)
    assert {(p.requires_grad, p.dtype) for p in whole.parameters()} == {(True, torch.float32)}
