"""What is refused in a model's or an adapter's folder before any library reads it: pickles, foreign code, nonsense."""

import json
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import ModelError, first_line

_NO_PICKLE = "pickled .bin files are not read, since they can run code"
_SAVE_AGAIN = "Convert it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)."
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
}
"""Far beyond any model; a number above would ask for more memory or time than there is before anyone could say why."""


_LARGEST_RANK = 100_000
_NULLABLE_KEYS = ("num_key_value_heads", "head_dim")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer)\.(\d{1,9})\.")


def checked_folder(folder: Path, *, weights: bool = True) -> Path:
    """A model's folder, checked to hold nothing that could run or that no model has.

    Args:
        folder: with config.json, and what belongs to it.
        weights: False does not ask for weights.

    Raises:
        ModelError: it has no config.json, no safetensors, code of its own, numbers beyond any model's, or weights of
            another number of layers.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no model folder: it has no config.json.", hint="Give the folder that save_pretrained wrote."
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json); its base model would be looked for elsewhere.",
            hint="Give the base model's own folder or hub id as model.name.",
        )
    _check_sizes(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        _check_no_code(folder / name)
    if weights:
        _check_layers(folder, weight_names(folder))
    return folder


def weight_names(folder: Path) -> frozenset[str]:
    """The names of the tensors in a model's folder.

    Raises:
        ModelError: its weights are no safetensors, incomplete, or damaged.
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
    """Refuse a model of which some weights were in no file: libraries draw them at random and go on.

    Args:
        parameters: names of the loaded model's parameters; tied ones once.
        names: those of the folder's tensors.
        folder: for the message.

    Raises:
        ModelError: naming the first of them.
    """
    # Transformers fuses the experts of a mixture, and adds the prefix that a bare model's file lacks.
    expected = [name for name in parameters if "expert" not in name]
    missing = [name for name in expected if not {name, name.removeprefix("model.")} & names]
    if missing and len(missing) < len(expected):
        raise ModelError(
            f"{folder} lacks {len(missing)} of the model's weights (first: {missing[0]}), which would stay random.",
            hint="The weights and config.json are not of one model: copy both again.",
        )


def _check_layers(folder: Path, names: Iterable[str]) -> None:
    config = _read_object(folder / "config.json")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or any(key.endswith("_config") and key != "quantization_config" for key in config):
        return  # of several models in one: whose layers are whose is not told by their names
    layer_numbers = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    if layer_numbers and layer_numbers != set(range(layers)):
        raise ModelError(
            f"{folder / 'config.json'} gives num_hidden_layers as {layers}, but the weights have {len(layer_numbers)}.",
            hint="The weights and config.json are not of one model: copy both again.",
        )


def check_adapter(adapter: Path) -> None:
    """Refuse an adapter's folder without safetensors, or whose configuration is damaged.

    Raises:
        ModelError: saying which.
    """
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter {adapter} has no adapter_model.safetensors; {_NO_PICKLE}.",
            hint="Train again, or save it again with PEFT's save_pretrained, which writes safetensors.",
        )
    _check_no_code(adapter / "adapter_config.json")
    rank = _read_object(adapter / "adapter_config.json").get("r", 1)
    if not isinstance(rank, int) or not 1 <= rank <= _LARGEST_RANK:
        raise ModelError(
            f"{adapter / 'adapter_config.json'} gives r as {rank!r}, which no adapter has.", hint="Copy it again."
        )
    _check_no_code(adapter / "tokenizer_config.json")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}.", hint="Copy the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not an object.", hint="Copy the file again.")
    return value


def _check_no_code(path: Path) -> None:
    if not path.is_file():
        return
    if code_keys := [key for key in _CODE_KEYS if _read_object(path).get(key)]:
        raise ModelError(
            f"{path} names code of its own ({code_keys[0]}), which is never run.",
            hint=f"Use a model that Transformers has itself; if this one is, remove {code_keys[0]} from a local copy.",
        )


def _check_sizes(path: Path) -> None:
    config = _read_object(path)
    for key, largest in _LARGEST_SIZES.items():
        value = config.get(key)
        if key not in config or (value is None and key in _NULLABLE_KEYS):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            shown = repr(value)
            raise ModelError(
                f"{path} gives {key} as {shown if len(shown) <= 60 else f'{shown[:57]}...'}, which no model has.",
                hint="The file is damaged or not meant for use: copy it again from the model's source.",
            )


def _weight_files(folder: Path) -> list[Path]:
    """Only files that are read under these names keep libraries from falling back to pickles."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise ModelError(f"{folder} has no safetensors weights (model.safetensors); {_NO_PICKLE}.", hint=_SAVE_AGAIN)
    shards = _read_object(index).get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if invalid := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ModelError(
            f"{index} names the file {invalid[0]!r}; weights are read from safetensors of the same folder alone.",
            hint=_SAVE_AGAIN,
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {missing[0]}, which {index.name} names.", hint="Copy every shard.")
    if not names:
        raise ModelError(f"{index} names no files.", hint="Copy the file again.")
    return [folder / name for name in names]
