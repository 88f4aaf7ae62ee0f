"""Memory that does not suffice is one sentence with exit code 1, on a CPU as on a GPU, wherever it runs out."""

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
    """What a CPU says where memory runs out: more is asked for than a process can address."""
    return torch.empty(10**15)


def starve_gpu(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("cause", [starve, starve_gpu, lambda: bytearray(2**62)], ids=["cpu", "gpu", "python"])
def test_whoever_runs_out_of_memory_is_one_sentence(cause: Callable[[], Any]) -> None:
    with pytest.raises(DeviceMemoryError, match="No room") as found, memory_errors("No room", hint="Make some."):
        cause()
    assert found.value.hint == "Make some."
    outer, inner = memory_errors("outer", hint=""), memory_errors("inner", hint="")
    with pytest.raises(DeviceMemoryError, match="inner"), outer, inner:
        cause()


def test_another_error_keeps_its_name() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(ZeroDivisionError), memory_errors("No room", hint=""):
        _ = 1 / 0


def test_a_command_ends_with_1_wherever_memory_runs_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(starve) == 1
    assert capsys.readouterr().err.startswith("error: Memory is used up")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("toolkit.models.loading.FastLanguageModel.from_pretrained", "does not fit into the device's memory."),
        ("toolkit.models.loading.FastLanguageModel.get_peft_model", "An adapter of rank 4 does not fit into"),
        ("toolkit.training.trainer.summed_loss", "The device's memory does not hold a training step."),
    ],
    ids=["weights", "adapter", "step"],
)
@pytest.mark.parametrize("command", ["sft", "preflight"])
def test_training_and_a_probe_that_run_out_of_memory_say_where(
    call: Call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str,
    sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(place, starve)
    flags = ["--probe"] if command == "preflight" else ["--output-dir", tmp_path / "run"]
    code, _, err = call(command, recipe_file, *flags)
    assert code == 1 and sentence in err and "\nhint: " in err and "Traceback" not in err


def test_a_tree_that_memory_does_not_hold_is_not_called_wrong(
    call: Call,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolkit.training.verification.summed_loss", starve)
    batching = "training.batching=prefix_tree"
    code, out, err = call("sft", recipe_file, "--set", batching, "--output-dir", tmp_path / "run")
    assert code == 1 and "does not hold 4 rows of a training step" in err and "WARNING" not in out


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("toolkit.inference.torch_scorer.TorchScorer._score_tree", []),
        ("toolkit.inference.torch_scorer.TorchScorer._edge_log_probs", []),
        ("toolkit.inference.generation.TorchGenerator._answer", ["--mode", "free"]),
    ],
    ids=["tree", "head", "free"],
)
def test_scoring_that_runs_out_of_memory_says_what_to_lower(
    call: Call, trained: RunFolder, monkeypatch: pytest.MonkeyPatch, place: str, flags: list[str]
) -> None:
    monkeypatch.setattr(place, starve)
    code, _, err = call("eval_generate", trained.path, *flags)
    assert code == 1 and "does not hold a forward pass" in err and "evaluation.batch_tokens" in err


def test_an_encoder_that_runs_out_of_memory_says_so(
    call: Call, trained_encoder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.inference.encoder_scorer.EncoderScorer._log_probs", starve)
    code, _, err = call("predict", trained_encoder.path, "--premise", "Un chat.", "--hypothesis", "Un animal.")
    assert code == 1 and "does not hold a forward pass" in err
    monkeypatch.setattr("toolkit.models.encoder.AutoModelForSequenceClassification.from_pretrained", starve)
    code, _, err = call("predict", trained_encoder.path, "--premise", "Un chat.", "--hypothesis", "Un animal.")
    assert code == 1 and "does not fit into the device's memory" in err
