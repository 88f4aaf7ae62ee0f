"""benchmarks/learning_curve.py: the sizes of a study with their predictions, and the figure."""

import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.utils.atomic_io import write_json

ROWS = (280, 560, 1120, 2240)


def write_study(folder: Path) -> None:
    """Write the table of a study of four sizes with a baseline, which has no size."""
    entry = {
        "variant": "small", "seeds": [1, 2], "n": 100, "interval": [0.5, 0.7], "standard_deviation": 0.01,
        "accuracy_by_seed": [0.59, 0.61], "nll": 0.9, "ece": 0.1, "train_seconds": 60.0, "against_first": None,
    }  # fmt: skip
    results = [entry | {"train_size": size, "trained_rows": float(size), "accuracy": 0.6} for size in ROWS]
    curve = {
        "sizes": list(ROWS), "accuracies": [0.6] * 4, "predicted_largest": 0.65, "predicted_tenfold": 0.8,
        "predicted_tenfold_interval": [0.7, 0.9], "law": {"scale": 2.0, "exponent": 0.3, "irreducible": 0.05},
    }  # fmt: skip
    baseline = entry | {"train_size": None, "trained_rows": None, "accuracy": 0.5}
    write_json(folder / "study.json", {"results": [*results, baseline], "learning_curves": [curve]})


def test_curve_has_each_size_and_its_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark, figures = importlib.import_module("learning_curve"), importlib.import_module("figures")
    write_study(tmp_path)
    result = benchmark.read_curve(tmp_path)
    table = benchmark.table(result)
    assert [row[0] for row in table[1:]] == ["280", "560", "1,120", "2,240", "22,400"]
    assert [row[-1] for row in table[1:]] == ["", "", "", "65.00% from the smaller sizes", "80.00% [70.00%, 90.00%]"]
    assert table[1][2] == "60.00% [50.00%, 70.00%]"
    assert figures.learning_curve(tmp_path / "none") is None
    write_json(tmp_path / "learning-curve" / "learning_curve.json", result)
    drawing = figures.learning_curve(tmp_path)
    assert "fitted power law" in drawing and drawing == figures.learning_curve(tmp_path)
