"""Encoders of three families: what their head is, how long a row they read, and how many parameters are trained."""

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
    longest_input,
)
from toolkit.models.precision import Precision
from toolkit.recipe.schema import Recipe

FULL = Precision("float32", "test")
SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def tiny(family: str, folder: Path) -> Path:
    import transformers

    more = {"relative_attention": True, "position_biased_input": False} if family == "DebertaV2" else {}
    config = getattr(transformers, f"{family}Config")(**SMALL, max_position_embeddings=66, pad_token_id=1, **more)
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
def test_all_that_pre_training_has_not_made_is_trained(
    make_encoder_recipe: Callable[..., Recipe], tmp_path: Path, family: str, head: list[str], longest: int | None,
    targets: str,
) -> None:  # fmt: skip
    folder = tiny(family, tmp_path / "model")
    recipe = make_encoder_recipe(
        f"model.name={folder}", "model.max_seq_length=64", f"lora.target_modules={targets}", "lora.dropout=0.1"
    )
    model = load_encoder(folder, recipe, FULL)
    assert head_modules(model) == head and longest_input(model) == longest
    adapted = attach_encoder_lora(model, recipe.lora, seed=1)
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    adapter = {name for name in trained if "lora_" in name}
    assert len(adapter) == 2 * 2 * 2, "two layers, two targets, two matrices"
    assert {part for part in head if any(f".{part}." in name for name in trained.keys() - adapter)} == set(head)
    assert sum(trained.values()) == count_encoder_parameters(folder, recipe).trainable


def test_dense_layers_of_the_head_get_no_adapter_as_they_are_trained_themselves(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path
) -> None:
    recipe = make_encoder_recipe("lora.target_modules=[dense]")
    adapted = attach_encoder_lora(load_encoder(tiny_encoder, recipe, FULL), recipe.lora, seed=1)
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 3 * 2 and not any("classifier" in name for name in names)


def test_head_and_adapter_are_functions_of_the_seed(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path
) -> None:
    def start(seed: int) -> torch.Tensor:
        recipe = make_encoder_recipe(f"seed={seed}")
        torch.manual_seed(seed + 10)  # whatever was drawn before
        model = attach_encoder_lora(load_encoder(tiny_encoder, recipe, FULL), recipe.lora, seed=seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_a_head_for_other_labels_is_replaced(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path, tmp_path: Path
) -> None:
    recipe = make_encoder_recipe()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=5)
    model.save_pretrained(tmp_path)
    assert load_encoder(tmp_path, recipe, FULL).classifier.out_proj.weight.shape == (3, 32)


def test_sixteen_bit_bases_train_float32_heads_and_adapters(
    make_encoder_recipe: Callable[..., Recipe], tiny_encoder: Path
) -> None:
    recipe = make_encoder_recipe()
    half = Precision("bfloat16", "test")
    adapted = attach_encoder_lora(load_encoder(tiny_encoder, recipe, half), recipe.lora, seed=1)
    kinds = {(p.requires_grad, p.dtype) for p in adapted.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
