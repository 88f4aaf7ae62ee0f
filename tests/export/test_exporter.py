"""The export as a whole: refused before work, whole or absent when killed, its record, its gate."""

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
from toolkit.export import exporter as module
from toolkit.export import quantization as quantise_module
from toolkit.runs.run_folder import RunFolder
from toolkit.utils.atomic_io import atomic_path

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "small")
    return RunFolder(tmp_path / "small")


def untouched(run: RunFolder) -> bool:
    return not run.merged.exists() and not (run.path / "gguf").exists()


def test_a_disk_that_is_too_small_is_refused_before_any_work(
    call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(run.path)._replace(free=1_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    code, _, err = call("export_gguf", run.path)
    assert code == 1 and "GB of disk" in err and "0.0 GB free" in err
    assert untouched(run)


def test_a_missing_quantiser_is_told_before_any_work(
    call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise_module.shutil, "which", lambda _: None)
    monkeypatch.setattr(quantise_module, "find_spec", lambda _: None)
    code, _, err = call("export_gguf", run.path, "--quant", "f16", "q4_k_m")
    assert code == 2 and "there is none here" in err and "pip install llama-cpp-python" in err
    assert untouched(run)


@pytest.mark.parametrize("flags", [["--verify", "0"], ["--verify", "some"], ["--min-agreement", "1.5"],
                                   ["--min-agreement", "x"], ["--quant", "q3_x"]], ids=" ".join)  # fmt: skip
def test_flags_that_mean_nothing_are_refused(call: Call, run: RunFolder, flags: list[str]) -> None:
    code, _, err = call("export_gguf", run.path, *flags)
    assert code == 2 and flags[1] in err and untouched(run)


def fake_quantiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str = 'cp "$1" "$2"') -> None:
    """By itself it copies, so that its file answers as its source."""
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_an_export_leaves_its_files_their_parity_and_their_origin(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_quantiser(tmp_path, monkeypatch)
    code, out, err = call("export_gguf", run.path, "--quant", "f16", "q4_k_m", "--verify", "12")
    assert code == 0, out + err
    assert "12/12 100.0%" in out and "0 differ" in out
    folder = run.path / "gguf"
    assert {path.name for path in folder.iterdir()} == {
        "small-f16.gguf", "small-q4_k_m.gguf", "Modelfile", "README.md", "parity.json",
    }  # fmt: skip
    parity = json.loads(run.parity.read_text(encoding="utf-8"))
    assert [one["model"] for one in parity["models"]] == ["merged", "gguf-f16", "gguf-q4_k_m"]
    assert [one["min_agreement"] for one in parity["models"]] == [None, 0.99, 0.95]
    assert all(one["verdict"] == "passed" and one["rows"] == 12 for one in parity["models"])
    assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./small-f16.gguf")
    fields = {key: field.contents() for key, field in gguf.GGUFReader(run.gguf("f16")).fields.items()}
    assert fields["general.toolkit.version"] == toolkit.__version__ and fields["general.sampling.temp"] == 0
    assert len(fields["general.toolkit.recipe_sha256"]) == 64 and "general.license" not in fields
    assert fields["general.base_model.0.name"].endswith("tiny-llama")


def test_a_second_export_keeps_the_parity_of_the_first_ones_files(call: Call, run: RunFolder) -> None:
    for file_type in ("f32", "f16", "f32"):
        assert call("export_gguf", run.path, "--quant", file_type, "--verify", "6")[0] == 0
    models = json.loads(run.parity.read_text(encoding="utf-8"))["models"]
    assert [one["model"] for one in models] == ["merged", "gguf-f32", "gguf-f16"]


def test_what_a_killed_export_left_is_cleared_before_the_disk_is_measured(call: Call, run: RunFolder) -> None:
    left = [run.path / ".merged.999999999.partial", run.path / "gguf" / ".small-f16.gguf.999999999.partial"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half", encoding="utf-8")
    assert call("export_gguf", run.path, "--quant", "f16", "--verify", "6")[0] == 0
    assert not any(path.exists() for path in left)


def test_a_file_that_answers_otherwise_ends_in_exit_code_3_and_stays_to_be_looked_into(
    call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.export.llama_folder.LlamaFolder._row_order", lambda *_: None)
    code, out, err = call("export_gguf", run.path, "--quant", "f32")
    assert code == 3 and "gguf-f32 of" in err and "does not answer as the adapter did" in err
    assert "refused" in out and "clear" in out and " nats)" in out
    assert run.gguf("f32").is_file()
    entry = json.loads(run.parity.read_text(encoding="utf-8"))["models"][-1]
    assert entry["verdict"] == "refused" and entry["disagreements"][0].keys() == {
        "id", "label", "adapter", "model", "margin", "kind",
    }  # fmt: skip


SLOW_WRITE = """
import sys, time
from pathlib import Path
from toolkit.export import gguf_writer as gguf
convert = gguf._convert
def slowly(*arguments):
    print("tensor", flush=True)
    time.sleep(0.05)
    return convert(*arguments)
gguf._convert = slowly
gguf.write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), "f16", date_string=None, name="m")
"""


@pytest.mark.parametrize("tensors", [0, 2, 9])
def test_a_kill_leaves_the_older_file_or_none_and_the_next_export_clears_up(
    tensors: int, tiny_model: Path, tmp_path: Path
) -> None:
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


def test_a_kill_while_the_quantiser_writes_leaves_no_file_and_the_next_export_clears_up(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_quantiser(tmp_path, monkeypatch, f'head -c 9999 "$1" > "$2"; echo $$ > {tmp_path}/begun; exec sleep 120')
    arguments = ["export_gguf", run.path, "--quant", "q4_k_m", "--verify", "6"]
    script = [sys.executable, ROOT / "scripts" / "export_gguf.py", *map(str, arguments[1:])]
    begun = tmp_path / "begun"
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (begun.is_file() and begun.read_text(encoding="utf-8").endswith("\n")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    try:
        left = {path.name.split(".gguf")[0] for path in (run.path / "gguf").iterdir()}
        assert process.returncode == -signal.SIGKILL and not run.gguf("q4_k_m").exists()
        assert left == {".small-q4_k_m", ".small-quantising"}
        fake_quantiser(tmp_path, monkeypatch)
        code, out, err = call(*arguments)
    finally:
        os.kill(int(begun.read_text(encoding="utf-8")), signal.SIGKILL)  # the quantiser outlives the export
    assert code == 0, out + err
    assert {path.name for path in (run.path / "gguf").iterdir()} == {
        "small-q4_k_m.gguf", "Modelfile", "README.md", "parity.json",
    }  # fmt: skip
    assert not list(run.path.rglob("*.partial"))


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f".m.gguf.{os.getppid()}.partial"
    theirs.write_text("theirs", encoding="utf-8")
    with atomic_path(tmp_path / "m.gguf") as partial:
        partial.write_text("ours", encoding="utf-8")
    assert theirs.read_text(encoding="utf-8") == "theirs"
