"""Folders of a run that are links are refused before anything is written to where they lead."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.runs.run_folder import RunFolder


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> Path:
    shutil.copytree(trained.path, tmp_path / "run")
    return tmp_path / "run"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_dangling", [False, True])
@pytest.mark.parametrize(
    ("command", "link"),
    [
        ("eval_generate", "eval"), ("eval_generate", "eval/adapter"), ("eval_generate", "adapter"),
        ("export_gguf", "merged"), ("export_gguf", "gguf"), ("compare", "compare"),
        ("compare", "compare/adapter--base"),
    ],
)  # fmt: skip
def test_links_inside_a_run_are_refused(
    call: Callable[..., tuple[int, str, str]], run: Path, tmp_path: Path, command: str, link: str, is_dangling: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if link != "adapter":  # the seal notices files that do not belong to the adapter
        (elsewhere / "precious.txt").write_text("kept", encoding="utf-8")
    arguments = [run]
    if command == "compare":
        for model in ("adapter", "base"):
            assert call("eval_generate", run, "--model", model)[0] == 0
        arguments = [run / "eval" / "adapter", run / "eval" / "base"]
    if (run / link).exists():
        if is_dangling:
            pytest.skip("not a finished run without its adapter")
        shutil.copytree(run / link, elsewhere, dirs_exist_ok=True)
        shutil.rmtree(run / link)
    (run / link).parent.mkdir(exist_ok=True)
    (run / link).symlink_to(tmp_path / "missing" if is_dangling else elsewhere)
    before = files_below(elsewhere)
    code, _, err = call(command, *arguments)
    assert code == 2 and err.count("error:") == 1
    assert f"{run / link} is a symbolic link to" in err and "hint: Replace the link with the folder itself." in err
    assert files_below(elsewhere) == before and not (tmp_path / "missing").exists()


def test_comparison_is_not_written_through_a_link(
    call: Callable[..., tuple[int, str, str]], run: Path, tmp_path: Path
) -> None:
    for model in ("adapter", "base"):
        assert call("eval_generate", run, "--model", model, "--limit", "3")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")
    code, _, err = call("compare", *sorted((run / "eval").iterdir()), "--output", tmp_path / "output")
    assert code == 2 and f"{tmp_path / 'output'} is a symbolic link to" in err
    assert not list((tmp_path / "elsewhere").iterdir())
