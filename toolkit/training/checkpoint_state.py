"""The state of training as safetensors and JSON files, without pickle.

A checkpoint contains adapter.safetensors (the trainable parameters by name), optimizer.safetensors and optimizer.json,
schedule.json (scheduler and loss scaler), random.json (the random number generators of every process) and
trainer_state.json.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import RunError

# The key of the JSON object that replaces a tensor. Its value is the tensor's name in the safetensors file.
_TENSOR = "tensor in the safetensors file"


def save_pytree(path: Path, tree: Any) -> None:
    """Write nested dictionaries and lists to `path`.json, and the tensors in them to `path`.safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    path.with_suffix(".json").write_text(json.dumps(_without_tensors(tree, "", tensors)), encoding="utf-8")
    save_file(tensors, path.with_suffix(".safetensors"))


def load_pytree(path: Path) -> Any:
    """Load what `save_pytree` wrote. JSON turns tuples into lists and keys into strings."""
    tensors = load_file(path.with_suffix(".safetensors"))
    return _with_tensors(json.loads(path.with_suffix(".json").read_bytes()), tensors)


def _without_tensors(tree: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, torch.Tensor):
        # safetensors refuses tensors that share memory, as the quantization maps of 8-bit optimizers do.
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
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


def save_trainable(path: Path, model: Any) -> None:
    """Write the model's trainable parameters by name, in their own data types."""
    save_file(
        {name: parameter.detach().cpu().contiguous() for name, parameter in _trainable_parameters(model).items()}, path
    )


def load_trainable(path: Path, model: Any) -> None:
    """Load the model's trainable parameters from a file.

    Raises:
        RunError: If the file has the parameters of a different model.
    """
    saved, trained = load_file(path), _trainable_parameters(model)
    if saved.keys() != trained.keys():
        names = sorted(saved.keys() ^ trained.keys())
        raise RunError(
            f"The checkpoint {path.parent} does not fit the model: only one of them has the parameter {names[0]}.",
            hint="Start over with overwrite=True or another output_dir.",
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])


def _trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_optimizer(path: Path, optimizer: Any) -> None:
    """Load an optimizer's state that `save_pytree` wrote."""
    saved = load_pytree(path)
    # An optimizer numbers its parameters, and JSON has turned these numbers into strings.
    optimizer.load_state_dict({**saved, "state": {int(key): value for key, value in saved["state"].items()}})


def capture_rng_state() -> dict[str, Any]:
    """Return the states of this process's random number generators: Python, NumPy, and torch on CPU and GPU."""
    numpy_name, keys, *numpy_rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [numpy_name, np.asarray(keys).tolist(), *numpy_rest],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": bytes(torch.cuda.get_rng_state().tolist()).hex() if torch.cuda.is_available() else None,
    }


def restore_rng_state(states: dict[str, Any]) -> None:
    """Set this process's random number generators to states from `capture_rng_state`, which may come from JSON."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_name, keys, *numpy_rest = states["numpy"]
    np.random.set_state((numpy_name, np.array(keys, dtype=np.uint32), *numpy_rest))
    torch.set_rng_state(_byte_tensor(states["torch"]))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_byte_tensor(states["cuda"]))


def _byte_tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
