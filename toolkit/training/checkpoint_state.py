"""All that a run's next step depends on, to plain files and back: safetensors and JSON, no pickle.

A checkpoint holds adapter.safetensors (what is trained, by parameter name), optimizer.safetensors and optimizer.json,
schedule.json (scheduler and loss scaler), random.json (every process's generators), and trainer_state.json.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import RunError

_TENSOR = "tensor in the safetensors file"


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dictionaries and lists as `path`.json, and the tensors among their values as `path`.safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    path.with_suffix(".json").write_text(json.dumps(_without_tensors(tree, "", tensors)), encoding="utf-8")
    save_file(tensors, path.with_suffix(".safetensors"))


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote; tuples come back as lists, and keys as strings."""
    tensors = load_file(path.with_suffix(".safetensors"))
    return _with_tensors(json.loads(path.with_suffix(".json").read_bytes()), tensors)


def _without_tensors(tree: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)  # some optimisers share theirs
        return {_TENSOR: name}
    if isinstance(tree, dict):
        return {key: _without_tensors(value, f"{name}.{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_tensors(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]
    return tree


def _with_tensors(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, dict):
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        return {key: _with_tensors(value, tensors) for key, value in tree.items()}
    return [_with_tensors(value, tensors) for value in tree] if isinstance(tree, list) else tree


def save_trained(path: Path, model: Any) -> None:
    """Write the model's trained parameters by name, in their own type."""
    save_file(
        {name: parameter.detach().cpu().contiguous() for name, parameter in _trained_parameters(model).items()}, path
    )


def load_trained(path: Path, model: Any) -> None:
    """Set the model's trained parameters.

    Raises:
        RunError: the file holds those of another model.
    """
    saved, trained = load_file(path), _trained_parameters(model)
    if saved.keys() != trained.keys():
        names = sorted(saved.keys() ^ trained.keys())
        raise RunError(
            f"The checkpoint {path.parent} is of another model: {names[0]} stands in one of them only.",
            hint="Start anew with overwrite=True or output_dir.",
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])


def _trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_optimizer(path: Path, optimizer: Any) -> None:
    """Set an optimiser's state, written by `save_tree`; it numbers its parameters, and JSON's keys are strings."""
    saved = load_tree(path)
    optimizer.load_state_dict({**saved, "state": {int(key): value for key, value in saved["state"].items()}})


def random_states() -> dict[str, Any]:
    """The generators of this process: Python's, NumPy's, torch's on the CPU and, where there is one, on the GPU."""
    numpy_name, keys, *numpy_rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [numpy_name, np.asarray(keys).tolist(), *numpy_rest],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": bytes(torch.cuda.get_rng_state().tolist()).hex() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set the generators of this process to what `random_states` gave, also after it went through JSON."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_name, keys, *numpy_rest = states["numpy"]
    np.random.set_state((numpy_name, np.array(keys, dtype=np.uint32), *numpy_rest))
    torch.set_rng_state(_byte_tensor(states["torch"]))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_byte_tensor(states["cuda"]))


def _byte_tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
