"""References to models: parsing, checks against the run's files, and names of evaluations."""

from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    folder = tmp_path / "nli"
    folder.mkdir()
    return RunFolder(folder)


@pytest.mark.parametrize("name", ["adapter", "base", "merged"])
def test_model_name_is_parsed(name: str) -> None:
    model = ModelRef.parse(name)
    assert (model.name, model.gguf, str(model)) == (name, None, name)
    assert ModelRef.parse(model) is model and ModelRef.parse(Path(name)) == model
    with pytest.raises(ValueError, match=f"{name} is not a GGUF file"):
        _ = model.file


@pytest.mark.parametrize("text", ["out/model.gguf", Path("out/model.gguf"), "out/model.gguf/", "./out//model.gguf"])
def test_path_of_a_gguf_file_is_parsed(text: str | Path) -> None:
    """A slash that shell completion adds at the end is ignored."""
    model = ModelRef.parse(text)
    assert (model.name, model.gguf, model.file) == ("gguf", Path("out/model.gguf"), Path("out/model.gguf"))
    assert str(model) == "out/model.gguf" and model != ModelRef("base")


@pytest.mark.parametrize("text", ["best", "Adapter", "adapter ", "", "gguf", "model.gguf.part", Path("model.bin")])
def test_anything_else_is_rejected(text: str | Path) -> None:
    with pytest.raises(RunError) as error:
        ModelRef.parse(text)
    assert str(error.value) == f"model={str(text)!r} is not adapter, base, merged or FILE.gguf."


def test_missing_model_is_rejected(run: RunFolder) -> None:
    for name in ("adapter", "base"):
        ModelRef.parse(name).check(run)
    with pytest.raises(RunError, match="nli contains no merged model") as merged:
        ModelRef("merged").check(run)
    with pytest.raises(RunError, match="There is no GGUF file") as gguf:
        ModelRef.parse(run.path / "model.gguf").check(run)
    assert merged.value.hint == gguf.value.hint == f"Create it with: toolkit.open_run({str(run.path)!r}).export()"
    run.merged.mkdir()
    (run.merged / "config.json").touch()
    (run.path / "model.gguf").touch()
    for text in ("merged", f"{run.path}/model.gguf/"):
        ModelRef.parse(text).check(run)


@pytest.mark.parametrize("text", ["base", "merged", "model.gguf"])
def test_encoder_run_has_only_its_adapter(run: RunFolder, text: str) -> None:
    ModelRef("adapter").check(run, "encoder")
    with pytest.raises(RunError, match=f"^model='{text}' is not available for encoder runs") as error:
        ModelRef.parse(text).check(run, "encoder")
    assert error.value.hint == 'Use model="adapter".'


def test_evaluation_is_named_after_the_model(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [ModelRef.parse(name).evaluation_name(run) for name in ("adapter", "base", "merged")] == [
        "adapter",
        "base",
        "merged",
    ]
    assert ModelRef.parse(run.gguf("q8_0")).evaluation_name(run) == "gguf-q8_0"
    assert ModelRef.parse("elsewhere/other-q8_0.gguf/").evaluation_name(run) == "gguf-other-q8_0"
    monkeypatch.chdir(run.path)
    assert ModelRef.parse("gguf/nli-f16.gguf").evaluation_name(RunFolder(Path())) == "gguf-f16"
