"""Encoders of three families: their head, their maximum input length and their trained parameters."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.models.backend import AutoModelForSequenceClassification
from toolkit.models.encoder import (
    attach_encoder_lora,
    count_encoder_parameters,
    head_modules,
    load_encoder,
    max_input_length,
)
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Recipe

FLOAT32 = Precision("float32", "test")
SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def save_tiny_encoder(family: str, folder: Path) -> Path:
    import transformers

    options = {"relative_attention": True, "position_biased_input": False} if family == "DebertaV2" else {}
    config = getattr(transformers, f"{family}Config")(**SMALL, max_position_embeddings=66, pad_token_id=1, **options)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "head", "longest", "targets"),
    [
        ("Camembert", ["classifier"], 64, "[query, value]"),
        ("Bert", ["classifier", "pooler"], 66, "[query, value]"),
        ("DebertaV2", ["pooler", "classifier"], None, "[query_proj, value_proj]"),
    ],
)
def test_modules_without_pretraining_are_trained(
    make_encoder_recipe: Callable[..., Recipe], tmp_path: Path, family: str, head: list[str], longest: int | None,
    targets: str,
) -> None:  # fmt: skip
    folder = save_tiny_encoder(family, tmp_path / "model")
    recipe = make_encoder_recipe(
        f"model.name={folder}", "model.max_seq_length=64", f"lora.target_modules={targets}", "lora.dropout=0.1"
    )
    model = load_encoder(folder, recipe, FLOAT32)
    assert head_modules(model) == head and max_input_length(model) == longest
    adapted = attach_encoder_lora(model, recipe.lora, seed=1)
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    adapter = {name for name in trained if "lora_" in name}
    assert len(adapter) == 2 * 2 * 2, "two layers, two targets, two matrices"
    trained_head = {module for module in head if any(f".{module}." in name for name in trained.keys() - adapter)}
    assert trained_head == set(head)
    assert sum(trained.values()) == count_encoder_parameters(folder, recipe).trainable


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
