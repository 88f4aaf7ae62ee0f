"""Tests that a run which is killed and resumed gives the same bytes as an uninterrupted one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder


def without_seconds(log: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "dev_seconds")} for row in rows]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def kill_chain(
    make_recipe: Callable[..., Recipe], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, int]]:
    """The folder with the runs `uninterrupted` and `killed`, and the exit code of each process, see `kill_chain.py`."""
    folder = tmp_path_factory.mktemp("kills")
    recipe = make_recipe(
        f"model.name={tiny_model}", "data.train.limit=24", "lora.dropout=0.1", "training.max_steps=8",
        "training.save_steps=2", "training.save_total_limit=2", "training.eval_steps=3",
        "data.dev={path: 'embedded:nli-fr', split: test, limit: 12}",
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    script = [sys.executable, ROOT / "tests" / "training" / "kill_chain.py", folder / "recipe.yaml", folder]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, env=one_thread)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    return folder, json.loads(result.stdout.splitlines()[-1])


def test_eight_kills_do_not_change_the_result(kill_chain: tuple[Path, dict[str, int]]) -> None:
    """Adapter, log and record equal those of a run without kills."""
    folder, exit_codes = kill_chain
    assert (exit_codes.pop("uninterrupted"), exit_codes.pop("last start")) == (0, 0)
    assert len(exit_codes) == 8 and set(exit_codes.values()) == {-9}, "a process did not reach its moment"
    uninterrupted, killed = RunFolder(folder / "uninterrupted"), RunFolder(folder / "killed")
    assert contents(killed.adapter) == contents(uninterrupted.adapter)
    assert without_seconds(killed.train_log) == without_seconds(uninterrupted.train_log)
    assert [row["step"] for row in without_seconds(killed.train_log)] == list(range(1, 9))
    assert killed.record["status"] == "completed" and killed.record["final_loss"] == uninterrupted.record["final_loss"]
    assert [row["step"] for row in without_seconds(killed.train_log) if "dev_nll" in row] == [3, 6, 8]
    assert killed.record["validation"]["best"] == uninterrupted.record["validation"]["best"]
    for key in ("data", "tokens", "batching", "versions", "batch_tokens"):
        assert killed.record[key] == uninterrupted.record[key], key
    seconds = json.loads(killed.train_log.read_text(encoding="utf-8").splitlines()[-1])["seconds"]
    assert 0 < seconds <= killed.record["timings"]["train_seconds"]


def test_kills_leave_no_extra_files(kill_chain: tuple[Path, dict[str, int]]) -> None:
    folder, _ = kill_chain
    names = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*"))
        for run in (folder / "uninterrupted", folder / "killed")
    ]
    assert names[0] == names[1]
    kept = sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())
    assert kept == ["checkpoint-6", "checkpoint-8"], "save_total_limit"


def test_checkpoints_contain_no_pickle(kill_chain: tuple[Path, dict[str, int]]) -> None:
    files = list((kill_chain[0] / "uninterrupted" / "checkpoints").rglob("*.*"))
    assert {path.suffix for path in files if path.is_file()} == {".json", ".safetensors"}
