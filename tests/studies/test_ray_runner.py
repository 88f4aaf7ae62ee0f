"""Studies on a Ray cluster have the results of those on one machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.errors import RunError
from toolkit.studies.study import run_study

pytest.importorskip("ray")
WriteStudy = Callable[..., Path]


def test_study_on_ray_has_the_same_table(write_study: WriteStudy, tmp_path: Path, in_process: list[str]) -> None:
    path, out = write_study(), tmp_path / "ray"
    command = [sys.executable, "scripts/study.py", str(path), "--output-dir", str(out), "--ray", "local"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = run_study(path, tmp_path / "here")
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    for ours, theirs in zip(record["results"], expected.results, strict=True):
        assert ours["accuracy_by_seed"] == theirs["accuracy_by_seed"] and ours["variant"] == theirs["variant"]
        assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-4) if ours["nll"] else theirs["nll"] is None
    assert in_process == ["lora-seed1", "lora-seed2"]


def test_canceled_cell_saves_a_checkpoint(write_study: WriteStudy, tmp_path: Path) -> None:
    """The cell of a canceled task stops like one on this machine, and the error of a task is in its log."""
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        "from toolkit.studies.cells import make_cells\n"
        "from toolkit.studies.loading import load_study\n"
        "from toolkit.studies.ray_runner import RayRunner\n"
        "from toolkit.studies.study_folder import StudyFolder\n"
        "folder = StudyFolder(Path(sys.argv[2])); folder.create('small')\n"
        "(cell,) = make_cells(load_study(Path(sys.argv[1])))\n"
        "runner = RayRunner(folder, 'local')\n"
        "process = runner._start(cell, 1)\n"
        "while 'step/s' not in (folder.log(cell.name).read_text() if folder.log(cell.name).is_file() else ''):\n"
        "    time.sleep(0.2)\n"
        "process.send_signal(signal.SIGTERM)\n"
        "print(process.wait(timeout=60), folder.run(cell.name).is_finished)\n"
        "runner.folder.path = Path('/proc/none')\n"
        "print(runner._start(cell, 1).wait(timeout=60))\n"
    )
    study = write_study(seeds=[1], overrides={"training.max_steps": 100_000, "training.epochs": 100_000})
    arguments = [sys.executable, "-c", code, study, tmp_path / "out"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["130 False", "1"], done.stderr
    assert "/proc/none" in (tmp_path / "out" / "logs" / "lora-seed1.log").read_text(encoding="utf-8")
    assert list((tmp_path / "out" / "runs" / "lora-seed1" / "checkpoints").glob("checkpoint-*"))


def test_jobs_and_ray_exclude_each_other(write_study: WriteStudy, call: Callable[..., tuple[int, str, str]]) -> None:
    code, _, error = call("study", write_study(), "--jobs", 2, "--ray", "local")
    assert code == 2 and "not allowed with" in error
    with pytest.raises(RunError, match="Ray decides"):
        run_study(write_study(), jobs=2, ray="local")


def test_silent_cluster_is_refused_at_once(
    write_study: WriteStudy, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    start = time.monotonic()
    code, _, error = call("study", write_study(), "--output-dir", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert code == 2 and "does not answer" in error and not (tmp_path / "out").exists()
    assert time.monotonic() - start < 60
