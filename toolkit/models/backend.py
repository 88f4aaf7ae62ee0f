"""The only module that imports Unsloth, TRL and PEFT.

Unsloth patches transformers, TRL and PEFT when it is imported, so it must come first. Other modules import these names
from here. Importing this module takes seconds, so import it inside functions.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from toolkit.errors import ModelError

# On a GPU, Unsloth would otherwise download a file from the Hub at each load, to collect usage statistics.
os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Unsloth writes the modules that it generates into the working directory by default.
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path.home() / ".cache" / "toolkit" / "unsloth_compiled"))
# Without a launcher (which sets LOCAL_RANK), one process uses one GPU. The others are hidden before torch is imported,
# because TRL and Unsloth disagree about several visible GPUs in one process, and training hangs.
if "LOCAL_RANK" not in os.environ:
    _visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0" if _visible_devices is None else _visible_devices.split(",")[0]

try:
    # The imports print banners, deprecation warnings and notes on optional kernels, which a user cannot act on.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import torch

        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # its handler keeps the real stderr
        import unsloth
        from unsloth import FastLanguageModel, is_bfloat16_supported
except (ImportError, NotImplementedError) as error:
    raise ModelError(
        f"Unsloth cannot be imported: {error}.", hint="Install the pinned versions with `make install`, or see README."
    ) from error

import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from huggingface_hub.utils import enable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    DynamicCache,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import SFTConfig, SFTTrainer

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
enable_progress_bars()  # the line above also turns off the bars of Hub downloads

_MIXED_PRECISION = "UNSLOTH_MIXED_PRECISION"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "DEVICE",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "DataCollatorWithPadding",
    "DynamicCache",
    "FastLanguageModel",
    "LoraConfig",
    "PeftModel",
    "PrinterCallback",
    "SFTConfig",
    "SFTTrainer",
    "Trainer",
    "TrainerCallback",
    "TrainerState",
    "TrainingArguments",
    "any_process",
    "broadcast_from_main_process",
    "device_name",
    "get_peft_model",
    "get_peft_model_state_dict",
    "has_compute_capability",
    "is_bfloat16_supported",
    "keep_float32",
    "quiet",
    "replace_fused_attention",
    "wait_for_all_processes",
]


def has_compute_capability(major: int) -> bool:
    """Return True if this process computes on a GPU of at least this compute capability: 8 for Ampere, 9 for Hopper."""
    return DEVICE == "cuda" and torch.cuda.get_device_capability() >= (major, 0)


def device_name() -> str:
    """Return the name of the device that this process computes on, for display."""
    if DEVICE == "cuda":
        return torch.cuda.get_device_name(0)
    return f"CPU, {torch.get_num_threads()} threads"


def wait_for_all_processes() -> None:
    """Block until all processes of a distributed run have reached this call."""
    PartialState(cpu=DEVICE == "cpu").wait_for_everyone()


def any_process(flag: bool) -> bool:
    """Return True if `flag` is set in any process of a distributed run; every process must call this."""
    state = PartialState(cpu=DEVICE == "cpu")
    if state.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor(float(flag), device=state.device), "sum"))


def broadcast_from_main_process(value: Any) -> Any:
    """Return the main process's value in each process of a distributed run; every process must call this."""
    state = PartialState(cpu=DEVICE == "cpu")
    return value if state.num_processes == 1 else broadcast_object_list([value])[0]


@contextlib.contextmanager
def keep_float32(is_float32: bool):  # type: ignore[no-untyped-def]
    """Make Unsloth load and train a model in float32 on a GPU if the recipe asks for it.

    Its trainer would compute in bfloat16 or float16, and without a GPU that supports bfloat16 its loader would store
    Gemma 3 in bfloat16. The names are private and can change, so the data type is checked after loading, and again
    before training.
    """
    if not is_float32 or DEVICE == "cpu":
        yield
        return
    previous = os.environ.get(_MIXED_PRECISION)
    # With this value, which otherwise means that all weights are bfloat16, the trainer uses no mixed precision.
    os.environ[_MIXED_PRECISION] = "bfloat16"
    try:
        with patch.object(unsloth.models.loader, "FORCE_FLOAT32", []):
            yield
    finally:
        # Not `patch.dict`: Unsloth sets other variables, which must stay.
        os.environ[_MIXED_PRECISION] = previous or "float32"


def replace_fused_attention(replace: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace the function with which Unsloth's fused layers compute attention, once in each of its modules.

    Its name is private and can change. Split attention then fails the verification, and dense attention is used.

    Args:
        replace: A function that returns the replacement of the original function.
    """
    for name, module in list(sys.modules.items()):
        function = getattr(module, "run_attention", None) if name.startswith("unsloth.models.") else None
        if function is not None and not hasattr(function, "original"):
            replacement = replace(function)
            replacement.original = function  # type: ignore[attr-defined]
            module.run_attention = replacement  # type: ignore[attr-defined]


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """Suppress what Unsloth prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
