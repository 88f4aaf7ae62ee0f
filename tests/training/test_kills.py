"""A run that is killed and resumed ends as one that was not: in the same bytes."""

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
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def chain(
    make_recipe: Callable[..., Recipe], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("kills")
    recipe = make_recipe(
        f"model.name={tiny_model}", "data.train.limit=24", "lora.dropout=0.1", "training.max_steps=8",
        "training.save_steps=2", "training.save_total_limit=2",
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    script = [sys.executable, ROOT / "tests" / "training" / "kill_chain.py", folder / "recipe.yaml", folder]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_eight_kills_leave_the_adapter_and_the_log_of_a_run_without_any(chain: tuple[Path, dict[str, int]]) -> None:
    folder, ends = chain
    assert (ends.pop("whole"), ends.pop("the last start")) == (0, 0)
    assert len(ends) == 8 and set(ends.values()) == {-9}, "each process reached the moment it was to be killed at"
    whole, killed = RunFolder(folder / "whole"), RunFolder(folder / "killed")
    assert contents(killed.adapter) == contents(whole.adapter)
    assert without_seconds(killed.train_log) == without_seconds(whole.train_log)
    assert [row["step"] for row in without_seconds(killed.train_log)] == list(range(1, 9))
    assert killed.record["status"] == "completed" and killed.record["final_loss"] == whole.record["final_loss"]
    for key in ("data", "tokens", "batching", "versions", "batch_tokens"):
        assert killed.record[key] == whole.record[key], key
    seconds = json.loads(killed.train_log.read_text(encoding="utf-8").splitlines()[-1])["seconds"]
    assert 0 < seconds <= killed.record["timings"]["train_seconds"]


def test_kills_leave_no_more_on_the_disk_than_a_run_without_any(chain: tuple[Path, dict[str, int]]) -> None:
    folder, _ = chain
    names = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (folder / "whole", folder / "killed")
    ]
    assert names[0] == names[1]
    kept = sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())
    assert kept == ["checkpoint-6", "checkpoint-8"], "save_total_limit"


def test_a_checkpoint_holds_no_pickle(chain: tuple[Path, dict[str, int]]) -> None:
    files = list((chain[0] / "whole" / "checkpoints").rglob("*.*"))
    assert {path.suffix for path in files if path.is_file()} == {".json", ".safetensors"}
