"""The shipped JSON Lines files are byte-identical to the output of the generator."""

from pathlib import Path

import pytest

from toolkit.embedded import nli_fr
from tools.tiny_llama_fr.__main__ import main
from tools.tiny_llama_fr.nli_fr import SPLITS, generate
from tools.tiny_llama_fr.rows import json_lines


@pytest.mark.parametrize("split", SPLITS)
def test_the_generator_reproduces_the_shipped_bytes(split: str) -> None:
    assert (nli_fr.DATA_FOLDER / f"{split}.jsonl").read_bytes() == json_lines(split).encode()
    assert nli_fr.load_split(split) == generate(split)


def test_package_and_generator_agree_on_the_splits() -> None:
    assert nli_fr.SPLITS == SPLITS
    assert {path.name for path in nli_fr.DATA_FOLDER.iterdir()} == {f"{split}.jsonl" for split in SPLITS}


def test_the_command_writes_every_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "rows"
    assert main(["--write-rows", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"{split}.jsonl") for split in SPLITS]
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written == {path.name: path.read_bytes() for path in nli_fr.DATA_FOLDER.iterdir()}


def test_the_command_writes_to_the_package_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr("tools.tiny_llama_fr.__main__.write_rows", lambda folder: folders.append(folder) or [])
    assert main(["--write-rows"]) == 0
    assert folders == [nli_fr.DATA_FOLDER]
