"""The table of decoder families, compared with transformers' models of each."""

from pathlib import Path

import pytest
import torch

from tests.models.stand_ins import SHAPES, stand_in_config
from toolkit.models.backend import AutoModelForCausalLM
from toolkit.models.families import FAMILIES, LINEAR_LAYERS, find_family
from toolkit.models.parameters import model_config


def test_every_family_has_a_shape() -> None:
    models = {type(AutoModelForCausalLM.from_config(stand_in_config(shape))).__name__ for shape in SHAPES}
    assert models == FAMILIES.keys()


@pytest.mark.parametrize("shape", SHAPES)
def test_family_describes_its_layers(shape: str) -> None:
    model = AutoModelForCausalLM.from_config(stand_in_config(shape))
    family, layer = FAMILIES[type(model).__name__], model.get_decoder().layers[1]
    linear = {
        name.split(".")[-1]: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)
    }
    assert set(linear) == set(LINEAR_LAYERS)
    biased = {name for name, module in linear.items() if module.bias is not None}
    assert biased == ({"q_proj", "k_proj", "v_proj"} if family.has_qkv_bias else set())
    states = torch.randn(4, layer.input_layernorm.weight.shape[0])
    with torch.no_grad():  # a norm with the weights 0 leaves only what the model adds to them
        normalized = layer.input_layernorm(states)
        layer.input_layernorm.weight.zero_()
        torch.testing.assert_close(layer.input_layernorm(states), family.norm_offset * normalized)


def test_known_family_is_found(tmp_path: Path) -> None:
    config = stand_in_config("qwen3", architectures=["Qwen3ForCausalLM"])
    config.save_pretrained(tmp_path)
    family = find_family(model_config(tmp_path))
    assert family is not None and family.name == "Qwen3"
    assert find_family(stand_in_config("qwen3", architectures=["OlmoForCausalLM"])) is None
    assert find_family(stand_in_config("qwen3")) is None
