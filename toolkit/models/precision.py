"""The data type that the model computes in, and the reason for the choice."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from toolkit.errors import ModelError, RunError

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Precision:
    """A data type by its torch name, and the reason it was chosen, which is printed and recorded."""

    name: Dtype
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        return getattr(torch, self.name)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Precision | None":
        """Read the precision that a run was started with from its run.json; return None if the record is empty.

        Raises:
            RunError: If run.json has no valid precision.
        """
        if not record:
            return None
        precision = record.get("precision") or {}
        if precision.get("name") not in get_args(Dtype) or not isinstance(precision.get("reason"), str):
            raise RunError(
                "run.json is damaged: it has no precision with a name and a reason.",
                hint="Restore run.json from a copy, or start again with overwrite=True or another output_dir.",
            )
        return cls(precision["name"], precision["reason"])


def choose_precision(
    requested: str, device: str, *, has_bfloat16: bool, has_bfloat16_units: bool, overflowing_family: str | None = None
) -> Precision:
    """Resolve `model.dtype` for a device.

    Args:
        requested: auto, bfloat16, float16 or float32.
        device: cpu or cuda.
        has_bfloat16: True if the device supports bfloat16 natively instead of emulating it.
        has_bfloat16_units: True if a CPU multiplies bfloat16 in hardware, see `cpu_has_bfloat16_units`. Ignored on a
            GPU.
        overflowing_family: The name of the model's family if its activations exceed the range of float16, or None.

    Raises:
        ModelError: For float16 on a CPU, or bfloat16 on a CPU that emulates it: Unsloth would use another one. Also for
            float16 with a family that overflows.
    """
    if requested == "float16" and overflowing_family:
        raise ModelError(
            f"model.dtype is float16, but activations of {overflowing_family} exceed its range (65504) and become "
            "infinite.",
            hint="Set model.dtype to auto, bfloat16 or float32.",
        )
    if requested == "bfloat16" and device == "cpu" and not has_bfloat16:
        raise ModelError(
            "model.dtype is bfloat16, but this CPU emulates it slowly and Unsloth would use a different data type.",
            hint="Set model.dtype to auto or float32.",
        )
    if requested == "float16" and device == "cpu":
        raise ModelError(
            "model.dtype is float16, but a CPU emulates it slowly and Unsloth would use a different data type.",
            hint="Set model.dtype to auto, bfloat16 or float32.",
        )
    if requested != "auto":
        return Precision(requested, "the recipe sets model.dtype")  # type: ignore[arg-type]
    if device == "cuda":
        if has_bfloat16:
            return Precision("bfloat16", "this GPU supports bfloat16")
        if overflowing_family:
            return Precision(
                "float32", f"this GPU does not support bfloat16, and {overflowing_family} overflows float16"
            )
        return Precision("float16", "this GPU does not support bfloat16")
    # Matrix products on one core of an AMD EPYC with AVX512-BF16: 200 GFLOP/s in bfloat16, 85 in float32, and 37 in
    # bfloat16 if oneDNN has to emulate it (ONEDNN_MAX_CPU_ISA=AVX512_CORE).
    if not has_bfloat16_units:
        return Precision("float32", "without AVX512-BF16 or AMX, bfloat16 is slower than float32 on this CPU")
    if not has_bfloat16:
        return Precision("float32", "Unsloth does not use bfloat16 on this CPU, or UNSLOTH_CPU_BF16 disables it")
    return Precision("bfloat16", "this CPU multiplies bfloat16 in hardware, faster than float32")


def cpu_has_bfloat16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Check if Linux reports instructions that multiply bfloat16.

    These are AVX512-BF16 (AMD since Zen 4, some Intel CPUs) and AMX (Intel since Sapphire Rapids).

    Args:
        cpuinfo: The kernel's description of the processors. If the file does not exist, the result is False.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return bool(re.search(r"^flags\s*:.*\b(amx_bf16|avx512_bf16)\b", text, re.MULTILINE))
