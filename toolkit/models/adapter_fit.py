"""Checks that an adapter from another tool fits a base model, tensor by tensor, and its copy in the toolkit's form."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from toolkit.errors import ModelError
from toolkit.models.backend import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from toolkit.models.encoder import head_modules
from toolkit.models.foreign_adapter import WEIGHTS, ForeignAdapter
from toolkit.models.parameters import model_config
from toolkit.models.safety import weight_names

_OTHER_BASE_HINT = "Set model.name to the model that the adapter was trained on (adapter_config.json names it)."


def check_fits(adapter: ForeignAdapter, base: Path, labels: int) -> None:
    """Check that an adapter has exactly the tensors that its options define on a base model, all of them finite.

    Args:
        adapter: The adapter.
        base: The folder of the base model, which needs no weights yet.
        labels: The number of labels, which is the number of outputs of an encoder's head.

    Raises:
        ModelError: If a tensor is missing, has another shape, or contains NaN or inf.
    """
    expected = _expected_shapes(adapter, base, labels)
    if unknown := sorted(set(adapter.shapes) - set(expected)):
        raise ModelError(
            f"The adapter {adapter.folder} was not trained on {base}: the model has no layer for {unknown[0]}.",
            hint=_OTHER_BASE_HINT,
        )
    for name, shape in adapter.shapes.items():
        if shape != expected[name]:
            raise ModelError(
                f"The adapter {adapter.folder} does not fit {base}: {name} has the shape {list(shape)}, but the model "
                f"needs {list(expected[name])}.",
                hint=f"The head needs one output for each of the {labels} labels."
                if "lora_" not in name
                else _OTHER_BASE_HINT,
            )
    missing = sorted(set(expected) - set(adapter.shapes))
    if head := [name for name in missing if "lora_" not in name]:
        raise _missing_head(adapter, head[0], adapter.config.get("modules_to_save") or ["classifier"])
    if missing:
        raise ModelError(
            f"The adapter {adapter.folder} has no {missing[0]}{_more(missing)}, but a recipe can only describe "
            f"adapters of all layers of {base} named {', '.join(adapter.layer_names)}.",
            hint="Either the file is incomplete, or only some layers were adapted (layers_to_transform, a regular "
            "expression in target_modules). Adapters of some layers cannot be imported.",
        )
    _check_finite(adapter)


def check_head(adapter: ForeignAdapter, base: Path, labels: int) -> None:
    """Check that an encoder's adapter contains its head, apart from a pooler whose weights the base has.

    Raises:
        ModelError: If neither of them has a module of the head, which would then be random.
    """
    with torch.device("meta"):
        model = _build_encoder(base, labels)
    in_base = {part for name in weight_names(base) for part in name.split(".")}
    for name in head_modules(model):
        if name not in adapter.saved_modules and not (name == "pooler" and name in in_base):
            raise _missing_head(adapter, name, head_modules(model))


def _missing_head(adapter: ForeignAdapter, name: str, modules: Sequence[str]) -> ModelError:
    return ModelError(
        f"The adapter {adapter.folder} does not contain {name}, so this part of the classification head would be "
        "random.",
        hint=f"Train it again with modules_to_save: [{', '.join(modules)}].",
    )


def _expected_shapes(adapter: ForeignAdapter, base: Path, labels: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        if adapter.kind == "encoder":
            model = _build_encoder(base, labels)
        else:
            model = AutoModelForCausalLM.from_config(model_config(base), trust_remote_code=False)
        adapted = get_peft_model(model, LoraConfig(**adapter.peft_options()))
    # With save_embedding_layers="auto", PEFT asks the Hub whether the base's vocabulary was resized.
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _build_encoder(base: Path, labels: int) -> Any:
    config = model_config(base)
    config.num_labels = labels
    return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""


def _check_finite(adapter: ForeignAdapter) -> None:
    with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
        invalid = next((name for name in adapter.shapes if not torch.isfinite(file.get_tensor(name)).all()), None)
    if invalid:
        raise ModelError(
            f"{adapter.folder / WEIGHTS} has NaN or inf in {invalid}.",
            hint="Its training diverged. Import an earlier checkpoint.",
        )


def write_adapter(adapter: ForeignAdapter, destination: Path, base_name: str) -> None:
    """Copy an adapter's weights, and write the configuration that the toolkit itself would have written for it.

    Args:
        adapter: The adapter.
        destination: An existing folder.
        base_name: The recipe's name of the base model.
    """
    shutil.copyfile(adapter.folder / WEIGHTS, destination / WEIGHTS)
    config = LoraConfig(**adapter.peft_options(), base_model_name_or_path=base_name, inference_mode=True)
    config.target_modules = adapter.layer_names  # PEFT made a set of them, whose order changes
    config.save_pretrained(str(destination))
