"""Devices that a run trains on, and their memory."""

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from toolkit.models.backend import DEVICE, device_name
from toolkit.planning.preflight import Preflight

CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Device:
    """Where a run trains.

    Args:
        name: for people.
        kind: cpu or cuda.
        memory: bytes, all of them, not those that are free: the same recipe on the same machine makes the same parts.
    """

    name: str
    kind: str
    memory: int

    def dtype_bytes(self, preflight: Preflight[Any]) -> int:
        """Bytes of a number in weights and activations; on a GPU that is not here 2, unless the recipe says float32."""
        if self == this_device():
            return preflight.precision.dtype.itemsize
        return 4 if preflight.recipe.model.dtype == "float32" else 2


T4 = Device("T4", "cuda", 15_800_000_000)
"""What CUDA gives of the 16 GB of an Nvidia T4."""


def this_device() -> Device:
    """The device of this process."""
    if DEVICE == "cuda":
        return Device(device_name(), "cuda", torch.cuda.get_device_properties(0).total_memory)
    return Device(device_name(), "cpu", min([psutil.virtual_memory().total, *_container_limits()]))


def _container_limits() -> Iterator[int]:
    """Bytes that a control group allows its processes, where one does: version 2 says `max` for no limit, 1 a huge one.

    Inside a container, whose own group is seen as the root.
    """
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            yield int(path.read_text(encoding="ascii"))


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on the GPU where there is one, else resident."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
