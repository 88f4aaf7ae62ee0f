"""Running out of memory is reported in one sentence with exit code 1, on a CPU and on a GPU, wherever it happens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.cli.command_line import run_command
from toolkit.errors import DeviceMemoryError
from toolkit.runs.run_folder import RunFolder
from toolkit.utils.memory_errors import is_out_of_memory, memory_errors

Call = Callable[..., tuple[int, str, str]]


def starve(*_: Any, **__: Any) -> Any:
    """Request more memory than a process can address, which raises torch's error for the CPU."""
    return torch.empty(10**15)


def starve_gpu(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("cause", [starve, starve_gpu, lambda: bytearray(2**62)], ids=["cpu", "gpu", "python"])
def test_every_library_gets_the_same_error(cause: Callable[[], Any]) -> None:
    with pytest.raises(DeviceMemoryError, match="No memory") as error, memory_errors("No memory", hint="Free some."):
        cause()
    assert error.value.hint == "Free some."
    outer, inner = memory_errors("outer", hint=""), memory_errors("inner", hint="")
    with pytest.raises(DeviceMemoryError, match="inner"), outer, inner:
        cause()


def test_other_errors_are_unchanged() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(ZeroDivisionError), memory_errors("No memory", hint=""):
        _ = 1 / 0


def test_exit_code_of_out_of_memory_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(starve) == 1
    assert capsys.readouterr().err.startswith("error: Out of memory (RAM or GPU)")


@pytest.mark.parametrize(
    ("failing_function", "sentence"),
    [
        ("toolkit.models.loading.FastLanguageModel.from_pretrained", "does not fit into the device's memory."),
        ("toolkit.models.loading.FastLanguageModel.get_peft_model", "An adapter of rank 4 does not fit into"),
        ("toolkit.training.trainer.summed_loss", "Out of memory during a training step."),
    ],
    ids=["weights", "adapter", "step"],
)
@pytest.mark.parametrize("command", ["sft", "preflight"])
def test_training_error_names_what_did_not_fit(
    call: Call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str,
    failing_function: str, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(failing_function, starve)
    flags = ["--probe"] if command == "preflight" else ["--output-dir", tmp_path / "run"]
    code, _, err = call(command, recipe_file, *flags)
    assert code == 1 and sentence in err and "\nhint: " in err and "Traceback" not in err


def test_tree_verification_reports_out_of_memory(
    call: Call,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolkit.training.verification.summed_loss", starve)
    batching = "training.batching=prefix_tree"
    code, out, err = call("sft", recipe_file, "--set", batching, "--output-dir", tmp_path / "run")
    assert code == 1 and "Out of memory during a training step of 4 rows" in err and "WARNING" not in out


@pytest.mark.parametrize(
    ("failing_function", "flags"),
    [
        ("toolkit.inference.torch_scorer.TorchScorer._score_tree", []),
        ("toolkit.inference.torch_scorer.TorchScorer._edge_log_probs", []),
        ("toolkit.inference.generation.TorchGenerator._generate_batch", ["--mode", "free"]),
    ],
    ids=["tree", "head", "free"],
)
def test_scoring_error_names_the_key_to_lower(
    call: Call, trained: RunFolder, monkeypatch: pytest.MonkeyPatch, failing_function: str, flags: list[str]
) -> None:
    monkeypatch.setattr(failing_function, starve)
    code, _, err = call("eval_generate", trained.path, *flags)
    assert code == 1 and "enough memory for a forward pass" in err and "evaluation.batch_tokens" in err


def test_encoder_reports_out_of_memory(call: Call, trained_encoder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.inference.encoder_scorer.EncoderScorer._log_probs", starve)
    code, _, err = call("predict", trained_encoder.path, "--premise", "Un chat.", "--hypothesis", "Un animal.")
    assert code == 1 and "enough memory for a forward pass" in err
    monkeypatch.setattr("toolkit.models.encoder.AutoModelForSequenceClassification.from_pretrained", starve)
    code, _, err = call("predict", trained_encoder.path, "--premise", "Un chat.", "--hypothesis", "Un animal.")
    assert code == 1 and "does not fit into the device's memory" in err
