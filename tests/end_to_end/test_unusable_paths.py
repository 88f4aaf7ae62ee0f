"""Names that are too long, and places that accept no files, are refused before the work, not after it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.inference.classifier import Classifier
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "small")))


def is_refused(result: tuple[int, str, str], message: str) -> bool:
    code, _, err = result
    return code == 2 and message in err and err.count("error: ") == 1 and "Traceback" not in err


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("the work was started")


@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["training", "dry run"])
@pytest.mark.parametrize("folder", ["/proc/x", "/proc/x/y", "/sys/x", "x" * 246, "x" * 300], ids=lambda name: name[:12])
def test_unusable_run_folders_are_refused(
    call: Call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, flags: list[str]
) -> None:
    monkeypatch.setattr("toolkit.planning.preflight.load_splits", forbid)
    result = call("sft", recipe_file, "--output-dir", tmp_path / folder, *flags)
    assert is_refused(result, "cannot be written: " if folder.startswith("/") else "is too long by")
    assert list(tmp_path.iterdir()) == [recipe_file]


def test_renamed_runs_with_long_names_are_not_exported(
    call: Call, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.path.rename(long := run.path.with_name("x" * 246))
    monkeypatch.setattr("toolkit.export.exporter.merge_adapter", forbid)
    assert is_refused(call("export_gguf", long), "is too long by")
    assert not (long / "gguf").exists()


def test_long_gguf_names_are_refused_before_scoring(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("export_gguf", run.path, "--quant", "f16", "--verify", "2", "--min-agreement", "0.01")[0] == 0
    long = Path(shutil.copy(run.gguf("f16"), tmp_path / f"{'x' * 230}.gguf"))
    monkeypatch.setattr(Classifier, "score_labels", forbid)
    assert is_refused(call("eval_generate", run.path, "--model", long), "is too long by")
    assert not run.eval.exists()


@pytest.mark.parametrize("name", ["x" * 240 + ".jsonl", "/proc/x.jsonl", "/proc/x/y.jsonl"], ids=lambda name: name[:12])
def test_unusable_prediction_targets_are_refused(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"premise": "a", "hypothesis": "b"}\n', encoding="utf-8")
    monkeypatch.setattr(Classifier, "score_labels", forbid)
    result = call("predict", run.path, "--input", rows, "--output", tmp_path / name)
    assert is_refused(result, "cannot be written: " if name.startswith("/") else "is too long by")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "small"]


def test_comparisons_into_proc_are_refused(call: Call, run: RunFolder) -> None:
    for model in ("adapter", "base"):
        assert call("eval_generate", run.path, "--model", model)[0] == 0
    result = call("compare", run.eval / "adapter", run.eval / "base", "--output", "/proc/x")
    assert is_refused(result, "Cannot open or create /proc/x: there is no such file or folder.")
