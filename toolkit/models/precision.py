"""The number format that the model computes in, and why."""

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
    """A dtype by its torch name, and the reason it was chosen, which is printed and recorded."""

    name: Dtype
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype."""
        return getattr(torch, self.name)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Precision | None":
        """Read what a run was started with from its run.json; None where that is empty.

        Raises:
            RunError: run.json holds no precision that can be read.
        """
        if not record:
            return None
        precision = record.get("precision") or {}
        if precision.get("name") not in get_args(Dtype) or not isinstance(precision.get("reason"), str):
            raise RunError(
                "run.json has no precision with a name and a reason, so it is damaged.",
                hint="Put run.json back from a copy, or start again with overwrite=True or output_dir.",
            )
        return cls(precision["name"], precision["reason"])


def choose_precision(requested: str, device: str, *, has_bfloat16: bool, has_amx: bool) -> Precision:
    """Resolve `model.dtype`.

    Args:
        requested: auto, bfloat16, float16 or float32.
        device: cpu or cuda.
        has_bfloat16: whether the device computes in bfloat16, rather than emulating it.
        has_amx: whether a CPU has matrix units for bfloat16, see `cpu_has_amx`; ignored on a GPU.

    Raises:
        ModelError: float16 on a CPU, or bfloat16 on one that emulates it; Unsloth would compute in another type.
    """
    if requested == "bfloat16" and device == "cpu" and not has_bfloat16:
        raise ModelError(
            "model.dtype is bfloat16, but this CPU emulates it slowly and Unsloth would train in another type.",
            hint="Set model.dtype to auto or float32.",
        )
    if requested == "float16" and device == "cpu":
        raise ModelError(
            "model.dtype is float16, but a CPU emulates it slowly and Unsloth replaces it.",
            hint="Set model.dtype to auto, bfloat16 or float32.",
        )
    if requested != "auto":
        return Precision(requested, "the recipe sets model.dtype")  # type: ignore[arg-type]
    if device == "cuda":
        if has_bfloat16:
            return Precision("bfloat16", "this GPU computes in bfloat16")
        return Precision("float16", "this GPU does not compute in bfloat16")
    if has_bfloat16 and has_amx:
        return Precision("bfloat16", "this CPU has AMX, which multiplies bfloat16 faster than float32")
    # Measured with AVX512-BF16 alone: 78 against 150 GFLOP/s in float32, and a whole step takes 1.71 times as long.
    return Precision("float32", "this CPU has no AMX in use, and without it bfloat16 is slower than float32")


def cpu_has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether Linux reports AMX tiles for bfloat16 (Intel, from Sapphire Rapids on).

    Args:
        cpuinfo: the kernel's description of the processors; where there is none, the answer is False.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return bool(re.search(r"^flags\s*:.*\bamx_bf16\b", text, re.MULTILINE))
