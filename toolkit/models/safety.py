"""Checks of model folders before any library reads them: pickles, custom code and absurd values."""

import json
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import ModelError, first_line

NO_PICKLE = "pickled .bin files are not read, because they can run code"
_SAVE_AGAIN = "Convert the model with AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)."
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
_LARGEST_SIZES = {
    "vocab_size": 10**7,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 10**5,
    "max_position_embeddings": 10**9,
    "sliding_window": 10**9,
}
"""Upper bounds far beyond any model. A larger value would exhaust memory or time before a library reports the cause."""

_NULLABLE_KEYS = ("num_key_value_heads", "head_dim", "sliding_window")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer)\.(\d{1,9})\.")


def check_model_folder(folder: Path, *, weights: bool = True) -> Path:
    """Check that a model's folder is complete and contains no code, and return it.

    Args:
        folder: The folder with config.json.
        weights: If False, the folder can lack weights.

    Raises:
        ModelError: If the folder has no config.json, no safetensors weights, custom code, absurd sizes, or weights for
            another number of layers.
    """
    if not (folder / "config.json").is_file():
        other = next(
            (f", only {ending.upper()} files" for ending in ("gguf", "onnx") if [*folder.glob(f"*.{ending}")]), ""
        )
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json{other}.",
            hint="Give a folder that save_pretrained wrote.",
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} contains an adapter (adapter_config.json), not a base model.",
            hint="Set model.name to the folder or Hub id of the adapter's base model.",
        )
    _check_sizes(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        check_no_code(folder / name)
    if weights:
        _check_layers(folder, weight_names(folder))
    return folder


def weight_names(folder: Path) -> frozenset[str]:
    """Return the names of the tensors in a model's folder.

    Raises:
        ModelError: If the weights are not safetensors, incomplete or damaged.
    """
    names: set[str] = set()
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as weights:
                names.update(weights.keys())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} cannot be loaded: {first_line(error)}.", hint="Copy the file again.") from error
    return frozenset(names)


def check_weights_complete(parameters: Iterable[str], names: Set[str], folder: Path) -> None:
    """Check that the folder has all weights of a loaded model. Libraries initialize missing ones at random.

    Args:
        parameters: The names of the loaded model's parameters, with tied ones once.
        names: The names of the folder's tensors.
        folder: The folder, for the message.

    Raises:
        ModelError: If a weight is missing; the message names the first.
    """
    # Two differences are expected: transformers fuses the experts of a mixture of experts, on which earlier versions
    # could train, into one tensor, and it adds the prefix "model.", which a model saved without its head lacks.
    expected = [name for name in parameters if "expert" not in name]
    missing = [name for name in expected if not {name, name.removeprefix("model.")} & names]
    if missing and len(missing) < len(expected):
        raise ModelError(
            f"{folder} lacks {len(missing)} of the model's weights (first: {missing[0]}), which would stay random.",
            hint="The weights and config.json belong to different models. Copy both again.",
        )


def _check_layers(folder: Path, names: Iterable[str]) -> None:
    config = read_object(folder / "config.json")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or any(key.endswith("_config") and key != "quantization_config" for key in config):
        return  # a composite model numbers the layers of each part from 0, and has a configuration for each part
    layer_numbers = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    if layer_numbers and layer_numbers != set(range(layers)):
        raise ModelError(
            f"{folder / 'config.json'} has num_hidden_layers {layers}, but the weights have {len(layer_numbers)} "
            "layers.",
            hint="The weights and config.json belong to different models. Copy both again.",
        )


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: If the file cannot be read or contains something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}.", hint="Copy the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} contains a {type(value).__name__}, not an object.", hint="Copy the file again.")
    return value


def check_no_code(path: Path) -> None:
    """Check that a configuration, if it exists, does not refer to custom code.

    Raises:
        ModelError: If it does.
    """
    if not path.is_file():
        return
    if code_keys := [key for key in _CODE_KEYS if read_object(path).get(key)]:
        raise ModelError(
            f"{path} refers to custom code ({code_keys[0]}), which is never run.",
            hint=f"Use a model that transformers supports. If it supports this one, remove {code_keys[0]} from a copy.",
        )


def _check_sizes(path: Path) -> None:
    config = read_object(path)
    for key, largest in _LARGEST_SIZES.items():
        value = config.get(key)
        if key not in config or (value is None and key in _NULLABLE_KEYS):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise ModelError(
                f"{path} has an impossible value for {key}: {shortened(value)}.",
                hint="The file is damaged. Copy it again from the model's source.",
            )


def shortened(value: object) -> str:
    """Return a value's repr, cut to a length that fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model's folder, which must be safetensors under their standard names."""
    # Under any other name, libraries would not find them and would fall back to pickles.
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ModelError(f"{folder} has no safetensors weights (model.safetensors); {NO_PICKLE}.", hint=_SAVE_AGAIN)
    shards = read_object(index).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if invalid := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ModelError(
            f"{index} refers to {invalid[0]!r}, but only safetensors files in the same folder are read.",
            hint=_SAVE_AGAIN,
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {missing[0]}, to which {index.name} refers.", hint="Copy all shards.")
    if not names:
        raise ModelError(f"{index} does not refer to any files.", hint="Copy the file again.")
    return [folder / name for name in names]
