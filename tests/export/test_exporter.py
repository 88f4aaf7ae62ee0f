"""The whole export: early refusals, atomic files when killed, the parity record, and the gate's exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

import toolkit
from tests.conftest import ROOT
from toolkit.export import exporter, quantization
from toolkit.runs.run_folder import RunFolder
from toolkit.utils.atomic_io import atomic_path

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "small")
    return RunFolder(tmp_path / "small")


def is_untouched(run: RunFolder) -> bool:
    return not run.merged.exists() and not (run.path / "gguf").exists()


def test_too_small_disk_is_refused_early(call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(run.path)._replace(free=1_000_000)
    monkeypatch.setattr(exporter.shutil, "disk_usage", lambda _: usage)
    code, _, err = call("export_gguf", run.path)
    assert code == 1 and " of disk" in err and "has 1.00 MB free" in err and "0.0" not in err
    assert is_untouched(run)


def test_missing_quantizer_is_refused_early(call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.shutil, "which", lambda _: None)
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    code, _, err = call("export_gguf", run.path, "--quant", "f16", "q4_k_m")
    assert code == 2 and "which is not installed" in err and "pip install llama-cpp-python" in err
    assert is_untouched(run)


@pytest.mark.parametrize("flags", [["--verify", "0"], ["--verify", "some"], ["--min-agreement", "1.5"],
                                   ["--min-agreement", "x"], ["--quant", "q3_x"]], ids=" ".join)  # fmt: skip
def test_invalid_flag_values_are_refused(call: Call, run: RunFolder, flags: list[str]) -> None:
    code, _, err = call("export_gguf", run.path, *flags)
    assert code == 2 and flags[1] in err and is_untouched(run)


def install_fake_quantizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str = 'cp "$1" "$2"') -> None:
    """Put a `llama-quantize` on the PATH that runs a shell script; the default copies, so that parity holds."""
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_export_writes_files_parity_and_origin(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_quantizer(tmp_path, monkeypatch)
    code, out, err = call("export_gguf", run.path, "--quant", "f16", "q4_k_m", "--verify", "12")
    assert code == 0, out + err
    assert "12/12 100.0%" in out and "  equal  " in out
    folder = run.path / "gguf"
    assert {path.name for path in folder.iterdir()} == {
        "small-f16.gguf", "small-q4_k_m.gguf", "Modelfile", "README.md", "parity.json",
    }  # fmt: skip
    parity = json.loads(run.parity.read_text(encoding="utf-8"))
    assert [entry["model"] for entry in parity["models"]] == ["merged", "gguf-f16", "gguf-q4_k_m"]
    assert [entry["min_agreement"] for entry in parity["models"]] == [None, 0.99, 0.95]
    assert all(entry["verdict"] == "passed" and entry["rows"] == 12 for entry in parity["models"])
    assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./small-f16.gguf")
    fields = {key: field.contents() for key, field in gguf.GGUFReader(run.gguf("f16")).fields.items()}
    assert fields["general.toolkit.version"] == toolkit.__version__ and fields["general.sampling.temp"] == 0
    assert len(fields["general.toolkit.recipe_sha256"]) == 64 and "general.license" not in fields
    assert fields["general.base_model.0.name"].endswith("tiny-llama")


def test_second_export_keeps_earlier_parity(call: Call, run: RunFolder) -> None:
    """parity.json keeps the entries of files that the second export does not replace."""
    for file_type in ("f32", "f16", "f32"):
        assert call("export_gguf", run.path, "--quant", file_type, "--verify", "6")[0] == 0
    models = json.loads(run.parity.read_text(encoding="utf-8"))["models"]
    assert [entry["model"] for entry in models] == ["merged", "gguf-f32", "gguf-f16"]


def test_leftovers_of_killed_export_are_removed(call: Call, run: RunFolder) -> None:
    leftovers = [run.path / ".merged.999999999.partial", run.path / "gguf" / ".small-f16.gguf.999999999.partial"]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half", encoding="utf-8")
    assert call("export_gguf", run.path, "--quant", "f16", "--verify", "6")[0] == 0
    assert not any(path.exists() for path in leftovers)


def test_broken_export_exits_with_3(call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that answers differently is refused but kept for inspection."""
    monkeypatch.setattr("toolkit.models.decoder_folder.DecoderFolder._row_order", lambda *_: None)
    code, out, err = call("export_gguf", run.path, "--quant", "f32")
    assert code == 3 and "do not answer like the adapter: gguf-f32." in err
    assert "refused" in out and "clear" in out and " nats)" in out
    assert run.gguf("f32").is_file()
    assert "Do not use `small-f32.gguf`" in (run.parity.with_name("README.md")).read_text(encoding="utf-8")
    entry = json.loads(run.parity.read_text(encoding="utf-8"))["models"][-1]
    assert entry["verdict"] == "refused" and entry["disagreements"][0].keys() == {
        "id", "label", "adapter", "model", "margin", "kind",
    }  # fmt: skip


def test_instructions_are_for_files_that_passed(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused file, here of a later export, is named but not recommended."""
    assert call("export_gguf", run.path, "--quant", "f16", "--verify", "6")[0] == 0
    monkeypatch.setattr("toolkit.models.decoder_folder.DecoderFolder._row_order", lambda *_: None)
    assert call("export_gguf", run.path, "--quant", "f32")[0] == 3
    folder = run.parity.parent
    assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./small-f16.gguf")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "Files: `small-f16.gguf`." in readme and "Do not use `small-f32.gguf`: the parity gate refused" in readme
    assert "-m small-f16.gguf" in readme and "-m small-f32.gguf" not in readme


SLOW_WRITE = """
import sys, time
from pathlib import Path
from toolkit.export import gguf_writer
convert = gguf_writer._convert
def convert_slowly(*arguments):
    print("tensor", flush=True)
    time.sleep(0.05)
    return convert(*arguments)
gguf_writer._convert = convert_slowly
gguf_writer.write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), "f16", date_string=None, name="m")
"""


@pytest.mark.parametrize("tensors", [0, 2, 9])
def test_kill_leaves_old_file_or_none(tensors: int, tiny_model: Path, tmp_path: Path) -> None:
    """A write killed after `tensors` tensors leaves nothing under the final name. The next write cleans up."""
    file = tmp_path / "m.gguf"
    if tensors:
        file.write_text("older", encoding="utf-8")
    arguments: list[Any] = [sys.executable, "-c", SLOW_WRITE, tiny_model, file]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for _ in range(tensors):
            assert process.stdout is not None and process.stdout.readline() == b"tensor\n"
        if not tensors:
            time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert file.read_text(encoding="utf-8") == "older" if tensors else not file.exists()
    assert len(list(tmp_path.glob(".m.gguf.*.partial"))) == (1 if tensors else 0)
    with atomic_path(file) as partial:
        partial.write_text("whole", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"] and file.read_text(encoding="utf-8") == "whole"


def test_kill_during_quantization_leaves_no_file(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export killed while the quantizer writes leaves nothing under the final name; the next export cleans up."""
    script = f'head -c 9999 "$1" > "$2"; echo $$ > {tmp_path}/quantizer_pid; exec sleep 120'
    install_fake_quantizer(tmp_path, monkeypatch, script)
    arguments = ["export_gguf", run.path, "--quant", "q4_k_m", "--verify", "6"]
    command = [sys.executable, ROOT / "scripts" / "export_gguf.py", *map(str, arguments[1:])]
    pid_file = tmp_path / "quantizer_pid"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (
            pid_file.is_file() and pid_file.read_text(encoding="utf-8").endswith("\n")
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    try:
        leftovers = {path.name.split(".gguf")[0] for path in (run.path / "gguf").iterdir()}
        assert process.returncode == -signal.SIGKILL and not run.gguf("q4_k_m").exists()
        assert leftovers == {".small-q4_k_m", ".small-quantizing"}
        install_fake_quantizer(tmp_path, monkeypatch)
        code, out, err = call(*arguments)
    finally:
        os.kill(int(pid_file.read_text(encoding="utf-8")), signal.SIGKILL)  # the quantizer outlives the export
    assert code == 0, out + err
    assert {path.name for path in (run.path / "gguf").iterdir()} == {
        "small-q4_k_m.gguf", "Modelfile", "README.md", "parity.json",
    }  # fmt: skip
    assert not list(run.path.rglob("*.partial"))


def test_files_of_running_processes_are_kept(tmp_path: Path) -> None:
    theirs = tmp_path / f".m.gguf.{os.getppid()}.partial"
    theirs.write_text("theirs", encoding="utf-8")
    with atomic_path(tmp_path / "m.gguf") as partial:
        partial.write_text("ours", encoding="utf-8")
    assert theirs.read_text(encoding="utf-8") == "theirs"
