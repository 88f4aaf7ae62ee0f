"""The only door to Unsloth, TRL and PEFT.

Unsloth patches transformers, TRL and PEFT as it is imported, so it comes first, and everyone gets them from here.
Importing this module takes seconds: import it late.
"""

import contextlib
import io
import logging
import os
from pathlib import Path

from toolkit.errors import ModelError

# On a GPU, Unsloth would fetch a counter file from the hub at each load.
os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Its generated kernels would otherwise land in the working directory.
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path.home() / ".cache" / "toolkit" / "unsloth_compiled"))
# One process uses one GPU, chosen before torch sees them: with two visible, Unsloth and TRL disagree and hang.
if "LOCAL_RANK" not in os.environ:
    _visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0" if _visible_devices is None else _visible_devices.split(",")[0]

try:
    # Banners, deprecations and missing optional kernels of others, which a user can do nothing about.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import torch

        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # holds on to the real stderr
        import unsloth  # noqa: F401 - first, see above
        from unsloth import FastLanguageModel, is_bfloat16_supported
except (ImportError, NotImplementedError) as error:
    raise ModelError(
        f"Unsloth cannot be imported: {error}.", hint="Install the pinned set: make install, or see README."
    ) from error

import transformers
from accelerate import PartialState
from accelerate.utils import reduce
from huggingface_hub.utils import enable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
enable_progress_bars()  # of downloads, which the line above turns off as well

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

__all__ = [
    "DEVICE",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "DataCollatorWithPadding",
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
    "device_name",
    "get_peft_model",
    "get_peft_model_state_dict",
    "is_bfloat16_supported",
    "quiet",
    "wait_for_all_processes",
]


def device_name() -> str:
    """The device that this process computes on, in words."""
    if DEVICE == "cuda":
        return torch.cuda.get_device_name(0)
    return f"CPU, {torch.get_num_threads()} threads"


def wait_for_all_processes() -> None:
    """Return when every process that a launcher started with this one has come here."""
    PartialState(cpu=DEVICE == "cpu").wait_for_everyone()


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any of the processes that a launcher started together; each of them has to ask."""
    state = PartialState(cpu=DEVICE == "cpu")
    if state.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor(float(flag), device=state.device), "sum"))


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """Keep what Unsloth prints out of a command's output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
