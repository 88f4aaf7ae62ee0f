"""Averages of adapters: their change of the weights is the mean of the single ones, whatever the ranks and scales."""

import pytest
import torch

from toolkit.models.adapter_average import LoraWeights, average_adapters
from toolkit.recipe.schema import LoraSection

INPUTS, OUTPUTS = 12, 7


def adapter(seed: int, *, r: int, alpha: int, use_rslora: bool = False, use_dora: bool = False) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.lora_A.weight": (r, INPUTS), "layer.lora_B.weight": (OUTPUTS, r)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return LoraWeights(LoraSection(r=r, alpha=alpha, use_rslora=use_rslora, use_dora=use_dora), tensors)


def change(adapter: LoraWeights) -> torch.Tensor:
    """Return the change of the layer's weights as PEFT computes it."""
    lora = adapter.lora
    scale = lora.alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    return scale * adapter.tensors["layer.lora_B.weight"] @ adapter.tensors["layer.lora_A.weight"]


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("sizes", [[(4, 8), (4, 8)], [(4, 8), (2, 8), (3, 5)]], ids=["equal", "different"])
def test_change_is_the_mean_of_the_changes(sizes: list[tuple[int, int]], use_rslora: bool) -> None:
    adapters = [adapter(seed, r=r, alpha=alpha, use_rslora=use_rslora) for seed, (r, alpha) in enumerate(sizes)]
    average = average_adapters(adapters)
    assert average.lora.r == sum(r for r, _ in sizes) and average.lora.use_rslora == use_rslora
    expected = torch.stack([change(adapter) for adapter in adapters]).mean(dim=0)
    torch.testing.assert_close(change(average), expected, atol=1e-5, rtol=1e-5)
    if len(set(sizes)) == 1:  # the product of the means is not the mean of the products
        means = {name: torch.stack([a.tensors[name] for a in adapters]).mean(0) for name in average.tensors}
        assert not torch.allclose(change(LoraWeights(adapters[0].lora, means)), expected, atol=1e-2)


def test_what_has_no_exact_average_is_refused() -> None:
    other = adapter(1, r=4, alpha=8)
    for wrong in (adapter(0, r=4, alpha=8, use_dora=True), LoraWeights(other.lora, {"another": torch.zeros(1)})):
        with pytest.raises(ValueError, match="exact average"):
            average_adapters([other, wrong])
