"""The number format that the model computes in, and why."""

from dataclasses import dataclass
from typing import Literal

import torch

from toolkit.errors import ModelError

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


def choose_precision(wanted: str, device: str, *, has_bfloat16: bool) -> Precision:
    """Resolve `model.dtype`.

    Args:
        wanted: auto, bfloat16, float16 or float32.
        device: cpu or cuda.
        has_bfloat16: whether the device computes in bfloat16, rather than emulating it.

    Raises:
        ModelError: float16 on a CPU, or bfloat16 on one that emulates it; Unsloth would compute in another type.
    """
    if wanted == "bfloat16" and device == "cpu" and not has_bfloat16:
        raise ModelError(
            "model.dtype is bfloat16, but this CPU emulates it slowly and Unsloth would train in another type.",
            hint="Set model.dtype to auto or float32.",
        )
    if wanted == "float16" and device == "cpu":
        raise ModelError(
            "model.dtype is float16, but a CPU emulates it slowly and Unsloth replaces it.",
            hint="Set model.dtype to auto, bfloat16 or float32.",
        )
    if wanted != "auto":
        return Precision(wanted, "the recipe sets model.dtype")  # type: ignore[arg-type]
    if has_bfloat16:
        return Precision("bfloat16", f"this {'GPU' if device == 'cuda' else 'CPU'} computes in bfloat16")
    if device == "cuda":
        return Precision("float16", "this GPU does not compute in bfloat16")
    return Precision("float32", "this CPU computes in neither bfloat16 nor float16")
