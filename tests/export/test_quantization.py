"""llama.cpp's quantizer: its absence is an error with a hint, and it never leaves a partial file."""

import importlib.util
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest

from tests.export.test_gguf_writer import PROMPTS, TRIE, build_model, export, gguf_scores, torch_scores
from toolkit.errors import ExportError, QuantizerError
from toolkit.export import quantization
from toolkit.export.gguf_writer import gguf_bytes, write_gguf
from toolkit.export.quantization import find_quantizer, quantize_file
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.recipe.section import GgufType

IN_PROCESS = [name for name, spec in FILE_TYPES.items() if not spec.needs_quantizer]
MIXTURES = [name for name, spec in FILE_TYPES.items() if spec.needs_quantizer]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows divide into blocks of 256, which the k-quants and ternary types need."""
    return build_model(tmp_path_factory.mktemp("model") / "m", hidden_size=256, intermediate_size=512, std=0.05)


def test_recipe_accepts_every_file_type() -> None:
    assert set(get_args(GgufType)) == set(FILE_TYPES)
    assert [name for name, spec in FILE_TYPES.items() if spec.is_at_least_8_bit] == ["f32", "f16", "bf16", "q8_0"]


@pytest.mark.parametrize("file_type", IN_PROCESS)
def test_file_types_run_and_match_the_estimated_size(file_type: Any, model: Path, tmp_path: Path) -> None:
    file = export(model, tmp_path / "m.gguf", file_type)
    size = file.stat().st_size
    assert size <= gguf_bytes(model, file_type) < size + 20e6
    actual, expected = gguf_scores(file, TRIE, PROMPTS), torch_scores(model, TRIE, PROMPTS)
    # Random weights are hard to quantize, and ternary types cannot represent them at all.
    tolerance = 5 if file_type.startswith("tq") else 0.2 if FILE_TYPES[file_type].is_at_least_8_bit else 1.5
    assert np.abs(actual - expected).max() < tolerance < np.abs(expected).max()


def install_fake_quantizer(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_program_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo "[   1/  21] token_embd.weight"; cp "$1" "$2"; echo "$3" >> "$2"'
    install_fake_quantizer(tmp_path, script, monkeypatch)
    (tmp_path / "in.gguf").write_text("GGUF ", encoding="utf-8")
    quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "q4_k_m")
    assert (tmp_path / "out.gguf").read_text(encoding="utf-8") == "GGUF Q4_K_M\n"


def test_failing_quantizer_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error quotes its last message, and no file is left."""
    install_fake_quantizer(tmp_path, 'head -c 3 "$1" > "$2"; echo; echo "bad magic" >&2; exit 1', monkeypatch)
    (tmp_path / "in.gguf").write_text("GGUF ", encoding="utf-8")
    with pytest.raises(QuantizerError, match=r"could not write out\.gguf\. Its last message: bad magic"):
        quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "q6_k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "in.gguf"]


def test_missing_quantizer_hints_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.shutil, "which", lambda _: None)
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match="which is not installed") as refusal:
        find_quantizer()
    assert "pip install" in (refusal.value.hint or "") and "q8_0" in (refusal.value.hint or "")


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")
@pytest.mark.parametrize("file_type", MIXTURES)
def test_k_quants_keep_metadata_and_accuracy(
    file_type: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization.shutil, "which", lambda _: None)
    source, file = tmp_path / "f16.gguf", tmp_path / "m.gguf"
    write_gguf(model, source, "f16", date_string="26 Jul 2024", name="nano")
    quantize_file(source, file, file_type)
    source_fields, fields = (
        {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()} for path in (source, file)
    )
    different = {key for key in source_fields if source_fields[key] != fields.get(key)}
    assert different <= {"general.file_type", "GGUF.kv_count"}
    assert fields["general.file_type"] == FILE_TYPES[file_type].number
    assert file.stat().st_size <= gguf_bytes(model, file_type)
    assert np.abs(gguf_scores(file, TRIE, PROMPTS) - torch_scores(model, TRIE, PROMPTS)).max() < 0.5
