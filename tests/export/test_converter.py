"""Export with llama.cpp's own converter: flags, failures, interruption, metadata, and the same parity gate."""

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
import numpy as np
import pytest

from tests.conftest import ROOT
from toolkit.errors import ConverterError, ExportError
from toolkit.export.converter import Converter
from toolkit.export.gguf_header import Origin
from toolkit.export.gguf_writer import write_gguf
from toolkit.prompts.dates import pin_date
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.section import GgufType
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]
ORIGIN = Origin(recipe="0" * 64, base_model="base", adapter="1" * 64, base="2" * 64)

# Like the real converter, it takes a folder, --outfile, --outtype and --vocab-only.
SCRIPT = """
import argparse, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("--outfile", type=Path)
parser.add_argument("--outtype")
parser.add_argument("--vocab-only", action="store_true")
arguments = parser.parse_args()
print("converting é", file=sys.stderr)
if arguments.vocab_only:
    VOCABULARY
    arguments.outfile.write_bytes(b"GGUF")
    sys.exit()
print("Writing:  45%|####      | 1.2G/2.7G\\rWriting: 100%|##########| 2.7G/2.7G", file=sys.stderr)
MODEL
"""
WRITE = """
from toolkit.export.gguf_writer import write_gguf
write_gguf(arguments.model, arguments.outfile, arguments.outtype, date_string=None, name="Model")
"""
FAILURES: dict[str, tuple[str, str]] = {
    "exit code": ("print('ERROR: no'); sys.exit(3)", "failed with exit code 3. Its last message: ERROR: no"),
    "exception": ("raise NotImplementedError('BPE pre-tokenizer')", "NotImplementedError: BPE pre-tokenizer"),
    "signal": ("import os; os.kill(os.getpid(), 9)", "failed with exit code -9. Its last message: converting é"),
    "no file": ("", "wrote no file. Its last message: converting é"),
    "garbage": ("arguments.outfile.write_bytes(b'PK')", "cannot load: .* is not a GGUF file"),
    "a part": ("arguments.outfile.write_bytes(b'GGUF\\3\\0\\0\\0')", "it ends within its header"),
    "a read-only folder": ("raise PermissionError(13, 'Permission denied', 'm.gguf')", "PermissionError: .*'m.gguf'"),
}


def write_converter(folder: Path, model: str = WRITE, vocabulary: str = "") -> Path:
    """Write a program that takes the converter's flags, and then executes the given statements."""
    folder.mkdir(exist_ok=True)
    file = folder / "convert_hf_to_gguf.py"
    file.write_text(SCRIPT.replace("MODEL", model).replace("VOCABULARY", vocabulary or "pass"), encoding="utf-8")
    return file


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the script, which imports the toolkit
    shutil.copytree(trained.path, tmp_path / "small {x}")
    return RunFolder(tmp_path / "small {x}")


def convert(converter: Path, model: Path, file: Path, file_type: GgufType = "f16", date: str | None = None) -> None:
    options: dict[str, Any] = {"base": model, "date_string": date, "name": file.stem, "origin": ORIGIN}
    Converter.find(converter).convert(model, file, file_type, **options)


def read_fields(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


def test_export_uses_the_converter(call: Call, run: RunFolder, tmp_path: Path) -> None:
    """The file passes the gate, and the seal finds the run's digests in it."""
    converter = write_converter(tmp_path / "llama.cpp")
    flags = ["--quant", "f16", "--verify", "12", "--converter", converter.parent]
    code, out, err = call("export_gguf", run.path, *flags)
    assert code == 0, out + err
    assert f"{converter} writes the files. The toolkit could write them, too." in out and "12/12 100.0%" in out
    assert {path.name for path in (run.path / "gguf").iterdir()} == {
        "small {x}-f16.gguf", "Modelfile", "README.md", "parity.json",
    }  # fmt: skip
    merged, entry = json.loads(run.parity.read_text(encoding="utf-8"))["models"]
    assert "converter" not in merged and entry["converter"].keys() == {"file", "sha256"}
    import toolkit

    ref = toolkit.open_run(run.path)._run, ModelRef.parse(str(run.gguf("f16")))
    from toolkit.inference.model_seal import verify_model

    assert verify_model(*ref) is None


def test_metadata_and_tensors_match_our_writer(run: RunFolder, tiny_model: Path, tmp_path: Path) -> None:
    """Whatever the converter guesses is replaced, the date in the template is pinned, and tensors are unchanged."""
    guess = """
from gguf import GGUFReader, GGUFWriter
from gguf.scripts.gguf_new_metadata import copy_with_new_metadata
write_gguf(arguments.model, arguments.outfile.with_name("x"), arguments.outtype, date_string=None, name="Model")
writer = GGUFWriter(arguments.outfile, "llama")
writer.add_basename("model"); writer.add_sampling_top_k(5); writer.add_base_model_count(3)
copy_with_new_metadata(GGUFReader(arguments.outfile.with_name("x")), writer, {}, [])
"""
    converter = write_converter(tmp_path / "llama.cpp", WRITE.splitlines()[1] + guess)
    theirs, ours = tmp_path / "m {ftype}.gguf", tmp_path / "m.gguf"
    convert(converter, tiny_model, theirs, date="26 Jul 2024")
    write_gguf(tiny_model, ours, "f16", date_string="26 Jul 2024", name=theirs.stem, origin=ORIGIN)
    fields, expected = read_fields(theirs), read_fields(ours)
    assert fields == expected and fields["tokenizer.chat_template"].startswith(pin_date("", "26 Jul 2024"))
    for tensor, other in zip(gguf.GGUFReader(theirs).tensors, gguf.GGUFReader(ours).tensors, strict=True):
        assert (tensor.name, tensor.tensor_type) == (other.name, other.tensor_type)
        np.testing.assert_array_equal(tensor.data, other.data)


@pytest.mark.parametrize(("statement", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_failures_name_the_last_message(tiny_model: Path, tmp_path: Path, statement: str, message: str) -> None:
    converter, file = write_converter(tmp_path / "llama.cpp", statement), tmp_path / "out" / "m.gguf"
    with pytest.raises(ConverterError, match=message) as error:
        convert(converter, tiny_model, file)
    assert "\n" not in str(error.value) and "requirements" in str(error.value.hint)
    assert not list(file.parent.iterdir())


def test_unknown_models_fail_before_merging(call: Call, run: RunFolder, tmp_path: Path) -> None:
    converter = write_converter(tmp_path / "llama.cpp", vocabulary="sys.exit('Model X is not supported')")
    code, _, err = call("export_gguf", run.path, "--converter", converter)
    assert code == 1 and "Its last message: Model X is not supported" in err and "hint: " in err
    assert not run.merged.exists() and not (run.path / "gguf").exists()


def test_missing_and_untrusted_converters_are_refused(call: Call, run: RunFolder, tmp_path: Path) -> None:
    """No code from the folder of a run or a model is run, not even through a link."""
    base = Path(run.record["model"]["folder"])
    inside, outside = write_converter(run.path / "code"), write_converter(tmp_path / "llama.cpp")
    links = [run.path / "link.py", tmp_path / "link.py"]
    links[0].symlink_to(outside)
    links[1].symlink_to(inside)
    for path in (inside, inside.parent, *links):
        code, _, err = call("export_gguf", run.path, "--converter", path)
        assert code == 2 and "code from the folder of a run or a model is never run" in err
    for path in (tmp_path, tmp_path / "nowhere.py"):
        code, _, err = call("export_gguf", run.path, "--converter", path)
        assert code == 2 and "There is no converter" in err and "llama.cpp's source" in err
    with pytest.raises(ExportError, match="is never run"):
        Converter.find(write_converter(tmp_path / "base"), tmp_path / "base")
    assert base.is_dir() and not run.merged.exists()


def test_types_that_nothing_writes_are_refused(call: Call, run: RunFolder, tmp_path: Path) -> None:
    converter = write_converter(tmp_path / "llama.cpp")
    code, _, err = call("export_gguf", run.path, "--converter", converter, "--quant", "mxfp4")
    assert code == 2 and "writes files of type mxfp4" in err and not run.merged.exists()


def test_other_types_come_from_the_quantizer(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncp "$1" "$2"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    converter = write_converter(tmp_path / "llama.cpp")
    code, out, err = call("export_gguf", run.path, "--converter", converter, "--quant", "q4_0", "--verify", "6")
    assert code == 0, out + err
    fields = read_fields(run.gguf("q4_0"))
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16, "the merged weights' own type, copied"
    assert len(fields["general.toolkit.adapter_sha256"]) == 64


INTERRUPTED = """
import sys
from pathlib import Path
from toolkit.cli.command_line import run_command
from toolkit.export.converter import Converter
converter, model, file = map(Path, sys.argv[1:])
options = {"base": model, "date_string": None, "name": "m", "origin": None}
sys.exit(run_command(lambda: Converter(converter).convert(model, file, "f16", **options)))
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interruption_stops_the_converter(tiny_model: Path, tmp_path: Path, stop: signal.Signals) -> None:
    """The child ends, although only its parent gets the signal, and nothing is left behind."""
    statement = f"""
import os
arguments.outfile.write_bytes(b"GGUF")
Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()) + "\\n")
time.sleep(60)
"""
    converter, file = write_converter(tmp_path / "llama.cpp", statement), tmp_path / "out" / "m.gguf"
    arguments: list[Any] = [sys.executable, "-c", INTERRUPTED, converter, tiny_model, file]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        pid = tmp_path / "pid"
        while process.poll() is None and not (pid.is_file() and pid.read_text(encoding="utf-8").endswith("\n")):
            time.sleep(0.05)
        process.send_signal(stop)
    assert process.returncode == 130 and not list(file.parent.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text(encoding="utf-8")), 0)


def test_unknown_architectures_name_the_way_out(
    call: Call, recipe_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = make_granite(load_tokenizer(tiny_model), tmp_path / "granite")
    flags = (recipe_file, "--set", f"model.name={model}", "--output-dir", tmp_path / "run")
    code, out, err = call("sft", *flags)
    assert code == 0 and "GraniteForCausalLM" in out and "pass its path when exporting (converter)" in out, err
    code, _, err = call("export_gguf", tmp_path / "run")
    assert code == 2 and "GraniteForCausalLM" in err and "hint: Pass --converter PATH" in err
    assert not (tmp_path / "run" / "merged").exists()


def make_granite(tokenizer: Any, folder: Path) -> Path:
    """Save a random model of an architecture that the writer does not know, with separate query and key projections."""
    import torch

    from toolkit.models.backend import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "granite", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # large enough that the scores of the labels differ
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_real_converter_passes_the_gate(
    call: Call, recipe_file: Path, nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(os.environ.get("LLAMA_CPP_SOURCE", "nowhere"))
    if not (source / "convert_hf_to_gguf.py").is_file():
        pytest.skip("needs LLAMA_CPP_SOURCE, a folder with llama.cpp's convert_hf_to_gguf.py")
    # The converter imports sentencepiece before it notices that the folder has no SentencePiece model.
    (tmp_path / "sentencepiece.py").write_text("SentencePieceProcessor = None\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = make_granite(load_tokenizer(nano), tmp_path / "granite")
    changes = [
        f"model.name={model}",
        "training.learning_rate=0.01",
        "training.max_steps=12",
        "task.date_string=26 Jul 2024",
    ]
    flags = [value for change in changes for value in ("--set", change)]
    code, out, err = call("sft", recipe_file, *flags, "--output-dir", tmp_path / "run")
    assert code == 0, out + err
    # The scores of random weights are close, so rounding can flip more than 1% of the answers.
    options = ["--quant", "q8_0", "--verify", "all", "--min-agreement", "0.8"]
    code, out, err = call("export_gguf", tmp_path / "run", *options, "--converter", source)
    assert code == 0 and "GraniteForCausalLM" in out, out + err
    run = RunFolder(tmp_path / "run")
    entry, fields = json.loads(run.parity.read_text(encoding="utf-8"))["models"][1], read_fields(run.gguf("q8_0"))
    assert entry["different_tokens"] == 0 and {row["kind"] for row in entry["disagreements"]} <= {"near tie"}
    assert fields["general.architecture"] == "granite" and fields["general.sampling.temp"] == 0
    assert fields["general.name"] == "run-q8_0" and "general.basename" not in fields
    assert fields["tokenizer.chat_template"].startswith(pin_date("", "26 Jul 2024"))
