"""The exact average of LoRA adapters: one adapter whose change of the weights is the mean of theirs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from toolkit.recipe.schema import LoraSection


@dataclass(frozen=True)
class LoraWeights:
    """The weights of an adapter.

    Args:
        lora: The section of the recipe that it was trained with.
        tensors: Its matrices by name: `<layer>.lora_A.weight`, [r, inputs], and `<layer>.lora_B.weight`, [outputs, r].
    """

    lora: LoraSection
    tensors: Mapping[str, torch.Tensor]

    @property
    def scale(self) -> float:
        """The factor of B A in the change of a layer's weights."""
        return self.lora.alpha / (math.sqrt(self.lora.r) if self.lora.use_rslora else self.lora.r)


def average_adapters(adapters: Sequence[LoraWeights]) -> LoraWeights:
    """Return the adapter whose change of each layer's weights is the mean of the given ones.

    Averages of models that were fine-tuned separately from the same weights are often more accurate than any of them
    (model soups, Wortsman et al. 2022, arXiv 2203.05482). The mean of the matrices A and that of the matrices B would
    not do: the product of two means is not the mean of the products. So the matrices are stacked instead,

        (s_1 B_1 A_1 + ... + s_n B_n A_n) / n = s [f_1 B_1, ..., f_n B_n] [A_1; ...; A_n],  where f_i = s_i / (n s),

    and the rank is the sum of the ranks.

    Args:
        adapters: At least two adapters of the same layers, none of which uses DoRA, whose change is not a product.

    Raises:
        ValueError: If they do not have the same tensors, or one of them uses DoRA.
    """
    first, names = adapters[0], sorted(adapters[0].tensors)
    if any(adapter.lora.use_dora or sorted(adapter.tensors) != names for adapter in adapters):
        raise ValueError("only adapters of the same layers without DoRA have an exact average")
    rank = sum(adapter.lora.r for adapter in adapters)
    # Proportional to the rank, so that the scale is that of the first adapter, except with rsLoRA.
    lora = first.lora.model_copy(update={"r": rank, "alpha": round(first.lora.alpha * rank / first.lora.r)})
    scale = LoraWeights(lora, {}).scale
    tensors = {}
    for name in names:
        matrices = [adapter.tensors[name].float() for adapter in adapters]
        if ".lora_B." in name:
            factors = [adapter.scale / (len(adapters) * scale) for adapter in adapters]
            tensors[name] = torch.cat([factor * b for factor, b in zip(factors, matrices, strict=True)], dim=1)
        else:
            tensors[name] = torch.cat(matrices, dim=0)
    return LoraWeights(lora, tensors)
