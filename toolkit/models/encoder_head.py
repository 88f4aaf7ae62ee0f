"""The classification head of an encoder: what its output layer starts from if the checkpoint has a head of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from toolkit.errors import ModelError

_DEFAULT_STD = 0.02  # transformers' own default for models without initializer_range


@dataclass(frozen=True)
class HeadStart:
    """The initial weights of a head's output layer.

    Args:
        start: `new`: the checkpoint has no head. `mapped`: its outputs have the names of the recipe's labels, and are
            brought into their order. `replaced`: its outputs mean something else, so the layer is initialized again.
        outputs: The names of the checkpoint's outputs, in its order.
        order: For each label of the recipe, the index of its output in the checkpoint; empty unless `mapped`.
    """

    start: Literal["new", "mapped", "replaced"]
    outputs: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    def __str__(self) -> str:
        outputs = ", ".join(self.outputs[:10]) + (", ..." if len(self.outputs) > 10 else "")
        if self.start == "mapped":
            return f"the checkpoint's own, with its outputs ({outputs}) in the order of task.labels"
        if self.start == "replaced":
            return f"new; the outputs of the checkpoint's own ({outputs}) are not those of task.labels"
        return "new; the checkpoint has none"


def plan_head(config: Any, labels: Sequence[str]) -> HeadStart:
    """Compare the outputs of a checkpoint's head (`id2label` in config.json) with the labels of a recipe.

    Without this, a head for (contradiction, entailment, neutral) would start as one for (entailment, neutral,
    contradiction), and training would first have to unlearn it. Names are compared without regard to case.

    Args:
        config: The checkpoint's configuration.
        labels: The recipe's labels.
    """
    if not any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ()):
        return HeadStart("new")
    names = config.id2label or {}
    outputs = tuple(str(names[i]) for i in sorted(names))
    position_of = {name.strip().casefold(): i for i, name in enumerate(outputs)}
    order = tuple(position_of.get(label.strip().casefold(), -1) for label in labels)
    # Each label needs an output of its own: `-1` is missing, and "A" and "a" would share one.
    if sorted(order) == list(range(len(outputs))):
        return HeadStart("mapped", outputs, order)
    return HeadStart("replaced", outputs)


def output_layer(model: Any, labels: int) -> tuple[str, torch.nn.Linear]:
    """Return the name and the last linear layer of a sequence classification model, outside of its encoder.

    Raises:
        ModelError: If the model has no such layer with one output per label.
    """
    encoder = {id(module) for module in model.base_model.modules()}
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) not in encoder
    ]
    if not layers or layers[-1][1].out_features != labels:
        raise ModelError(f"{type(model).__name__} has no output layer for {labels} labels.")
    return layers[-1]


@torch.no_grad()
def start_head(model: Any, head: HeadStart, labels: int) -> None:
    """Bring the output layer that was loaded from a checkpoint into the order of the labels, or initialize it again.

    Args:
        model: The model with the checkpoint's weights.
        head: The comparison of the checkpoint's outputs with the labels.
        labels: The number of labels.
    """
    _, layer = output_layer(model, labels)
    if head.start == "mapped":
        for parameter in layer.parameters():
            parameter.copy_(parameter[list(head.order)].clone())
        return
    # As transformers initializes a linear layer.
    layer.weight.normal_(mean=0.0, std=getattr(model.config, "initializer_range", None) or _DEFAULT_STD)
    if layer.bias is not None:
        layer.bias.zero_()
