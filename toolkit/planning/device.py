"""Training devices and their memory."""

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from toolkit.models.backend import DEVICE, device_name, has_compute_capability
from toolkit.models.families import find_family
from toolkit.planning.preflight import Preflight

CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Device:
    """A device that a run can train on.

    Args:
        name: The name shown to users.
        kind: Either cpu or cuda.
        memory: The total memory in bytes. Free memory would vary, and with it the micro-batches of the same recipe on
            the same machine.
    """

    name: str
    kind: str
    memory: int

    @property
    def is_hopper(self) -> bool:
        """True for this process's GPU if it is of the Hopper generation or later."""
        return self == this_device() and has_compute_capability(9)

    @property
    def has_large_trees(self) -> bool:
        """True for this process's GPU if it is of the Ampere generation or later, see `LARGE_TREE_NODES`."""
        return self == this_device() and has_compute_capability(8)

    def dtype_bytes(self, preflight: Preflight[Any]) -> int:
        """Return the size of a weight or activation in bytes.

        On a device other than this one it is 2 unless the recipe sets float32, or the model's family overflows float16
        and the device is a T4, which does not support bfloat16.
        """
        if self == this_device():
            return preflight.precision.dtype.itemsize
        family = find_family(preflight.config)
        needs_float32 = self == T4 and family is not None and family.overflows_float16
        return 4 if needs_float32 or preflight.recipe.model.dtype == "float32" else 2


T4 = Device("T4", "cuda", 15_800_000_000)
"""An NVIDIA T4, with the part of its 16 GB that CUDA reports as total memory."""


def this_device() -> Device:
    """Return the device of this process."""
    if DEVICE == "cuda":
        return Device(device_name(), "cuda", torch.cuda.get_device_properties(0).total_memory)
    return Device(device_name(), "cpu", min([psutil.virtual_memory().total, *_container_limits()]))


def _container_limits() -> Iterator[int]:
    """Yield the memory limits of this container's control group, in bytes.

    Inside a container, its own group is mounted at the root of the cgroup file system.
    """
    # Without a limit, version 2 contains "max", which int() rejects, and version 1 a number above any real memory.
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            yield int(path.read_text(encoding="ascii"))


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes: on the GPU if there is one, and resident memory otherwise."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
