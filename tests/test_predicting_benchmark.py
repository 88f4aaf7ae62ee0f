"""The prediction benchmark labels rows as the command does, and reports how memory and time grow."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from toolkit.runs.run_folder import RunFolder


def test_predicting_benchmark_extrapolates(trained: RunFolder, tmp_path: Path) -> None:
    """The embedded rows are repeated until there are enough of them."""
    source = ROOT / "toolkit" / "embedded" / "nli_fr_rows" / "test.jsonl"
    command = [sys.executable, "benchmarks/predicting.py", trained.path, "--input", source, "--out", tmp_path]
    finished = subprocess.run([*command, "--rows", "1500"], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    report = json.loads((tmp_path / "predicting.json").read_text(encoding="utf-8"))
    assert {**report, **json.loads(finished.stdout)} == report and [path.name for path in tmp_path.iterdir()] == [
        "predicting.json"
    ]
    first, *_, last = report["samples"]
    assert 0 < first["rows"] < last["rows"] == report["rows"] == 1500 and last["seconds"] > first["seconds"] == 0
    assert report["extrapolated_hours_per_million"] > 1e6 / report["rows_per_second"] / 3600
    assert all(0.1 < sample["resident_gb"] <= report["peak_gb"] for sample in report["samples"])
