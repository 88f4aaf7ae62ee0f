"""LoRA adapters that other tools trained: finding them, and checking that a recipe can describe them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from toolkit.errors import ModelError
from toolkit.models.adapter_checks import LORA_MATRIX, check_adapter_weights, check_weights_exist, is_number
from toolkit.models.families import LINEAR_LAYERS
from toolkit.models.model_folder import download, looks_like_a_path
from toolkit.models.safety import check_no_code, read_object, shortened
from toolkit.recipe.model_kind import ModelKind

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HUB_FILES = [CONFIG, "*token*.json", "*.jinja", "vocab.json", "vocab.txt", "merges.txt", "*.model", "README.md"]
_TASK_TYPES: dict[ModelKind, str] = {"decoder": "CAUSAL_LM", "encoder": "SEQ_CLS"}
_ONLY_LORA = (
    "Only a LoRA adapter with one rank and one alpha, on linear layers of an unchanged base model, can be imported."
)
# These leave the base unchanged. All others change its weights before training, or cannot be told apart from those.
_NEUTRAL_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal")
_REFUSED_OPTIONS = {
    "alora_invocation_tokens": "an aLoRA adapts only the tokens after an invocation sequence",
    "rank_pattern": "its layers have different ranks",
    "alpha_pattern": "its layers have different values of alpha",
    "trainable_token_indices": "the embeddings of some tokens were trained, too",
    "lora_bias": "its matrices have biases",
    "layer_replication": "it repeats layers of the base model",
    "target_parameters": "it adapts parameters that are not linear layers, such as those of a mixture of experts",
    "loftq_config": "LoftQ changes the weights of the base model",
    "eva_config": "EVA cannot be told apart from initializations that change the base model",
    "corda_config": "CorDA changes the weights of the base model",
    "lora_ga_config": "LoRA-GA changes the weights of the base model",
    "use_qalora": "a QA-LoRA is tied to quantized weights",
    "megatron_config": "it was trained on layers of Megatron",
    "fan_in_fan_out": "it was trained on layers whose weights are transposed, as in GPT-2",
}
"""Options that change what an adapter computes in a way that a recipe cannot express, with the reason."""

# Options that are checked elsewhere or change nothing. The adapted layers are read from the tensors, so that no regular
# expression has to be matched.
_ACCEPTED_OPTIONS = frozenset(
    (
        "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
        "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "runtime_config",
        "target_modules", "task_type", "use_dora", "use_rslora",
    )
)  # fmt: skip


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter that another tool trained, whose files are intact and of a kind that a recipe can describe.

    Args:
        folder: The folder with its files.
        config: The content of adapter_config.json.
        kind: The kind of model that the recipe names.
        shapes: The shape of each tensor, by its name in the file.
    """

    folder: Path
    config: Mapping[str, Any]
    kind: ModelKind
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def lora(self) -> dict[str, Any]:
        """The values of the recipe's lora section."""
        return {
            "r": self.config["r"],
            "alpha": int(self.config["lora_alpha"]),
            "dropout": float(self.config.get("lora_dropout") or 0.0),
            "target_modules": self.layer_names,
            "use_rslora": bool(self.config.get("use_rslora")),
            "use_dora": bool(self.config.get("use_dora")),
        }

    @property
    def layer_names(self) -> list[str]:
        """The last parts of the names of the adapted layers, such as q_proj."""
        return sorted({match["layer"].split(".")[-1] for name in self.shapes if (match := LORA_MATRIX.fullmatch(name))})

    @property
    def saved_modules(self) -> list[str]:
        """The modules that were trained completely and are saved with the adapter, such as a classification head."""
        names = self.config.get("modules_to_save") or []
        parts = {part for name in self.shapes if "lora_" not in name for part in name.split(".")}
        return sorted(parts & set(names))

    def peft_options(self) -> dict[str, Any]:
        """Return the arguments of the LoraConfig that describes the adapter in the form that the toolkit writes."""
        lora = self.lora
        return {
            "task_type": _TASK_TYPES[self.kind],
            "r": lora["r"],
            "lora_alpha": lora["alpha"],
            "lora_dropout": lora["dropout"],
            "target_modules": lora["target_modules"],
            "use_rslora": lora["use_rslora"],
            "use_dora": lora["use_dora"],
            "modules_to_save": self.saved_modules or None,
        }


def find_adapter(name: str) -> Path:
    """Return the local folder of an adapter, and download it from the Hub if necessary.

    Args:
        name: A local folder, or a Hub id.

    Raises:
        ModelError: If it does not exist, is not an adapter, or has no safetensors weights.
    """
    if Path(name).exists() or looks_like_a_path(name):
        _check_is_adapter(Path(name))
        return Path(name)
    # Configuration first: a repository with a complete model can have gigabytes of weights.
    _check_is_adapter(download(name, None, _HUB_FILES), has_weights=False)
    folder = download(name, None, [*_HUB_FILES, WEIGHTS])
    _check_is_adapter(folder)
    return folder


def _check_is_adapter(folder: Path, *, has_weights: bool = True) -> None:
    if (folder / CONFIG).is_file():
        if has_weights:
            check_weights_exist(folder)
        return
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise ModelError(f"The adapter folder {folder} {reason}.", hint=f"Give the folder that contains {CONFIG}.")
    if (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is a complete model (it has a config.json but no {CONFIG}), not an adapter.",
            hint="If the adapter was merged into it, give the folder that the adapter was saved in before.",
        )
    nested = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    hint = f"Give one of its folders, e.g. {nested[-1]}." if nested else "Give a folder that save_pretrained wrote."
    raise ModelError(f"{folder} is not an adapter: it has no {CONFIG}.", hint=hint)


def read_foreign_adapter(folder: Path, kind: ModelKind) -> ForeignAdapter:
    """Read the configuration and the names and shapes of an adapter's tensors, and check that it can be imported.

    Args:
        folder: The folder of the adapter.
        kind: The kind of model that the recipe names.

    Raises:
        ModelError: If a file is damaged, or the adapter is of a kind that a recipe cannot describe.
    """
    for name in (CONFIG, "tokenizer_config.json"):
        check_no_code(folder / name)
    config = read_object(folder / CONFIG)
    _check_kind(config, folder / CONFIG, kind)
    _check_values(config, folder / CONFIG)
    check_adapter_weights(folder / WEIGHTS, config)
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a mapping
    adapter = ForeignAdapter(folder, config, kind, shapes)
    _check_layers(adapter)
    return adapter


def _check_layers(adapter: ForeignAdapter) -> None:
    """Check that the file contains only LoRA matrices of linear layers, and modules that adapter_config.json lists."""
    saved = set(adapter.saved_modules)
    if other := sorted(name for name in adapter.shapes if "lora_" not in name and not saved & set(name.split("."))):
        raise ModelError(
            f"{adapter.folder / WEIGHTS} contains {other[0]}, which is not a LoRA matrix: it was trained completely, "
            "or the vocabulary was resized.",
            hint=_ONLY_LORA,
        )
    if embeddings := sorted(name for name in adapter.shapes if "lora_embedding" in name):
        raise ModelError(
            f"{adapter.folder / WEIGHTS} adapts an embedding ({embeddings[0]}), which a recipe cannot describe.",
            hint=_ONLY_LORA,
        )
    if adapter.kind == "decoder" and (unknown := [name for name in adapter.layer_names if name not in LINEAR_LAYERS]):
        raise ModelError(
            f"{adapter.folder / WEIGHTS} adapts {unknown[0]}, but a recipe can only describe adapters of "
            f"{', '.join(LINEAR_LAYERS)}.",
            hint="Train it again with these target modules.",
        )


def _check_kind(config: Mapping[str, Any], path: Path, kind: ModelKind) -> None:
    if (peft_type := config.get("peft_type")) != "LORA":
        raise ModelError(f"{path} has peft_type {shortened(peft_type)}, but only LORA can be used.", hint=_ONLY_LORA)
    if (task_type := config.get("task_type")) not in (None, _TASK_TYPES[kind]):
        raise ModelError(
            f"{path} has task_type {shortened(task_type)}, but the recipe's model.kind {kind} needs "
            f"{_TASK_TYPES[kind]}.",
            hint="Set model.kind: decoder for adapters of type CAUSAL_LM, and encoder for those of type SEQ_CLS.",
        )
    if (initialization := config.get("init_lora_weights")) not in _NEUTRAL_INITIALIZATIONS:
        raise ModelError(
            f"{path} sets init_lora_weights to {shortened(initialization)}, which can change the base model's weights "
            "before training, so the adapter does not fit the original base.",
            hint="Convert it to an ordinary LoRA where it was trained, with PEFT's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...).",
        )
    for key, value in config.items():
        if key in _ACCEPTED_OPTIONS or value in (None, False, "", [], {}):
            continue
        reason = _REFUSED_OPTIONS.get(key, "this option is not known")
        raise ModelError(f"{path} sets {key} to {shortened(value)}, which cannot be used: {reason}.", hint=_ONLY_LORA)
    if (bias := config.get("bias", "none")) != "none":
        raise ModelError(
            f"{path} sets bias to {shortened(bias)}: biases of the base were trained, too.", hint=_ONLY_LORA
        )


def _check_values(config: Mapping[str, Any], path: Path) -> None:
    """Check that a recipe can express the numbers of an adapter, and that it saves no modules except a head."""
    is_valid = {
        "r": type(config.get("r")) is int and 1 <= config["r"] <= 2**16,
        "lora_alpha": is_number(config.get("lora_alpha"))
        and 1 <= config["lora_alpha"] <= 2**16
        and config["lora_alpha"] == int(config["lora_alpha"]),
        "lora_dropout": is_number(config.get("lora_dropout", 0)) and 0 <= config.get("lora_dropout", 0) < 1,
        **{key: isinstance(config.get(key, False), bool) for key in ("use_rslora", "use_dora")},
    }
    if invalid := [key for key, valid in is_valid.items() if not valid]:
        raise ModelError(
            f"{path} has {shortened(config.get(invalid[0]))} for {invalid[0]}, which the lora section of a recipe "
            "cannot express.",
            hint="It needs a rank and an alpha that are positive integers, and a dropout below 1.",
        )
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise ModelError(f"{path} has an invalid modules_to_save: {shortened(saved)}.", hint="Copy the file again.")
    if saved and config.get("task_type") != "SEQ_CLS":
        raise ModelError(
            f"{path} has modules_to_save {', '.join(saved)}, which were trained completely, but a decoder's adapter "
            "can only have LoRA matrices.",
            hint="Train it again without modules_to_save (LLaMA-Factory: additional_target; axolotl: "
            "lora_modules_to_save), and without new tokens.",
        )
