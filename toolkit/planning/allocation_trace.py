"""The memory that a model's own code allocates in a training step, without weights and without computing anything.

The model runs on fake tensors, which have shapes but no data, so each block of memory is seen with its size and its
lifetime. This works for every architecture that transformers can build; no layer has to be described by hand.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolkit.errors import ModelError
from toolkit.models.backend import DynamicCache

TRACED_LAYERS = 3
"""The number of layers of a traced model.

The first layer keeps less than the others, because its input needs no gradient. In a tree, the last one can keep less,
too, because it computes only the nodes that predict."""
_MIDDLE = 1  # the layer that is counted for all others


@dataclass(frozen=True)
class LayerTrace:
    """The blocks of a model with `TRACED_LAYERS` layers, in bytes, without parameters and their gradients.

    Args:
        kept: Bytes in use at the end of the forward pass.
        kept_in_layers: Bytes of them that the layers allocated.
        layer_kept: The blocks that the middle layer allocates and keeps until then.
        layer_freed: The blocks that the middle layer allocates and frees before.
        layer_input: The bytes of a layer's input.
        working: Bytes at the peak of forward and backward pass, in addition to `kept`.
    """

    kept: int
    kept_in_layers: int
    layer_kept: tuple[int, ...]
    layer_freed: tuple[int, ...]
    layer_input: int
    working: int

    def kept_bytes(self, layers: int, *, checkpointing: bool) -> int:
        """Return the bytes that a model with this number of layers keeps for its backward pass."""
        layer = sum(self.layer_kept)
        if checkpointing:  # the inputs of all layers and of what follows, and the layer that is being recomputed
            return self.kept - self.kept_in_layers + (layers + 1) * self.layer_input + layer
        return self.kept + (layers - TRACED_LAYERS) * layer


@dataclass(frozen=True)
class TracedCall:
    """The call of a model that is traced.

    Args:
        inputs: Its inputs. Their values do not matter.
        body: The name of the method that returns the module to call. None for the model itself.
        is_training: True if there is a backward pass.
        autocast: The data type of mixed precision. None without it.
        has_fused_attention: True if attention keeps no weights, even with dropout, as on a GPU.
        prefix: The number of tokens that are cached before the call. The cache that they occupy is not counted, but the
            one that replaces it during the call is.
    """

    inputs: dict[str, Any]
    body: str | None
    is_training: bool
    autocast: torch.dtype | None
    has_fused_attention: bool
    prefix: int = 0


class _Allocations(TorchDispatchMode):
    """A dispatch mode that records each new block of memory until it is freed.

    Args:
        known: The addresses of the blocks that exist already.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.live: set[int] = set()
        self.held = self.peak = 0
        self._known = known
        self._numbers: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default and args[1].itemsize < 4:
            # In half precision, CPUs with AMX copy keys and values into the layout of their matrix units.
            self.peak = max(self.peak, self.held + args[1].nbytes + args[2].nbytes)
        if func is not torch.ops.prim.device.default:
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self._add(tensor.untyped_storage())
        return result

    def _add(self, block: Any) -> None:
        address = block._cdata
        if address in self._numbers or address in self._known:  # a view, or the result of an operation in place
            return
        self._numbers[address] = len(self.sizes)
        self.live.add(len(self.sizes))
        self.sizes.append(block.nbytes())
        self.held += block.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(block, self._free, address)

    def _free(self, address: int) -> None:
        number = self._numbers.pop(address)
        self.live.remove(number)
        self.held -= self.sizes[number]


@dataclass
class _LayerMarks:
    """The numbers of blocks that existed before and after each layer, and the size of the last layer's result."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    result_bytes: int = 0

    def watch(self, layers: Any, allocations: _Allocations) -> None:
        def before(*_: Any) -> None:
            self.starts.append(len(allocations.sizes))

        def after(_module: Any, _inputs: Any, result: Any) -> None:
            self.ends.append(len(allocations.sizes))
            self.result_bytes = next(x for x in tree_leaves(result) if isinstance(x, torch.Tensor)).nbytes

        for layer in layers:
            layer.register_forward_pre_hook(before)
            layer.register_forward_hook(after)


def trace_call(model: Any, call: TracedCall) -> LayerTrace:
    """Trace the forward pass, and for training the backward pass, of a model.

    Args:
        model: A model on the meta device with `TRACED_LAYERS` layers. Its tensors are replaced.
        call: The call to trace.

    Raises:
        ModelError: If the model has no list of layers.
    """
    layers = _find_layers(model)
    with ExitStack() as stack:
        mode = stack.enter_context(FakeTensorMode())
        tensors = _to_fake(model)
        inputs = _fake_inputs(call.inputs, mode, tensors)
        if call.has_fused_attention:
            stack.enter_context(_without_attention_dropout())
        stack.enter_context(torch.set_grad_enabled(call.is_training))
        body = model if call.body is None else getattr(model, call.body)()
        if call.prefix:
            inputs["past_key_values"] = DynamicCache()
            prefix = torch.ones(1, call.prefix, dtype=torch.long)
            body(input_ids=prefix, past_key_values=inputs["past_key_values"], use_cache=True)
            tensors += [x for layer in inputs["past_key_values"].layers for x in (layer.keys, layer.values)]
        allocations, marks = _Allocations({tensor.untyped_storage()._cdata for tensor in tensors}), _LayerMarks()
        marks.watch(layers, allocations)
        stack.enter_context(allocations)
        with torch.autocast("cpu", call.autocast, enabled=call.autocast is not None):
            result = body(**inputs)[0]
            kept, live = allocations.held, set(allocations.live)
        if call.is_training:
            result.backward(torch.ones_like(result))
    sizes, (start, end) = allocations.sizes, (marks.starts[_MIDDLE], marks.ends[_MIDDLE])
    return LayerTrace(
        kept=kept,
        kept_in_layers=sum(sizes[number] for number in range(marks.starts[0], marks.ends[-1]) if number in live),
        layer_kept=tuple(sizes[number] for number in range(start, end) if number in live),
        layer_freed=tuple(sizes[number] for number in range(start, end) if number not in live),
        layer_input=marks.result_bytes,
        working=max(0, allocations.peak - kept),
    )


def _fake_inputs(value: Any, mode: FakeTensorMode, tensors: list[torch.Tensor]) -> Any:
    """Return inputs with fake tensors in place of real ones, and append the fake tensors to `tensors`."""
    if isinstance(value, torch.Tensor):
        tensors.append(mode.from_tensor(value))
        return tensors[-1]
    if isinstance(value, dict):
        return {name: _fake_inputs(item, mode, tensors) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_fake_inputs(item, mode, tensors) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        items = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **_fake_inputs(items, mode, tensors))
    return value


def _find_layers(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == TRACED_LAYERS:
            return module
    raise ModelError(f"{type(model).__name__} has no list of layers.")


def _to_fake(model: Any) -> list[torch.Tensor]:
    """Replace the tensors of a model by fake ones on the CPU, and return them with the gradients of the parameters."""
    fakes: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in fakes:  # tied weights are one tensor
                        fakes[id(tensor)] = _fake(tensor)
                    tensors[name] = fakes[id(tensor)]
    gradients = [tensor.grad for tensor in fakes.values() if tensor.grad is not None]
    return [*fakes.values(), *gradients]


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, torch.nn.Parameter):
        return fake
    fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
    if tensor.requires_grad:  # so that the backward pass adds to it, and the gradient is not counted
        fake.grad = torch.empty_like(fake)
    return fake


@contextmanager
def _without_attention_dropout() -> Iterator[None]:
    attention = torch.nn.functional.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        return attention(*args, **kwargs | {"dropout_p": 0.0})

    with patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        yield
