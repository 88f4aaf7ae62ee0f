"""The benchmarks run, and all systems do the same work: their gradients and predictions agree."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

EMBEDDED = ["embedded:tiny-llama-fr", "--recipe", "recipes/quickstart.yaml", "--rounds", "1"]


def run_benchmark(name: str, out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{name}.py", *EMBEDDED, "--out", out, *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    # print() adds a line break that the file does not have.
    assert out.with_suffix(".md").read_text(encoding="utf-8") == finished.stdout.removesuffix("\n")
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["results"]


BENCHMARKS = [
    "export",
    "family_memory",
    "gpu",
    "gpu_families",
    "interference",
    "kills",
    "memory",
    "scoring",
    "scoring_gguf",
    "single_text",
    "training",
]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_prints_its_help(name: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0 and "usage:" in finished.stdout, finished.stderr


def test_tree_gradient_matches_trl_on_unsloth(tmp_path: Path) -> None:
    systems = ["--systems", "trl on unsloth", "ours, shuffled"]
    results = run_benchmark("training", tmp_path / "t", "--steps", "1", "--batch", "8", *systems)
    (peer,), (ours,) = results["trl on unsloth"], results["ours, shuffled"]
    assert ours["gradient_difference"]["trl on unsloth"] < 1e-5
    assert ours["tokens"][0] < peer["tokens"][0] and ours["peak_bytes"] > 0


def test_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", *EMBEDDED[:3], "--smoke", "--out", tmp_path]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == finished.stdout.removesuffix("\n")
    cases = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["results"]
    assert {case["system"] for case in cases} >= {"transformers", "padding-free Unsloth", "tree, shuffled", "scoring"}
    assert not any(case["error"] for case in cases)
    assert all(case["gradient_difference"] < 1e-4 for case in cases if case["gradient_difference"] is not None)
    lengths = {case["multiple"]: case["tokens"][0] for case in cases if case["system"] == "tree, grouped"}
    assert lengths[128] % 128 == 0 and lengths[1] < lengths[128]


def test_tree_scoring_matches_constrained_generation(tmp_path: Path) -> None:
    results = run_benchmark(
        "scoring", tmp_path / "s", "--rows", "8", "--our-rows", "12", "--systems", "generate, batched", "ours"
    )
    assert results["ours"][0]["predictions"][:8] == results["generate, batched"][0]["predictions"]


def test_gguf_scoring_matches_the_torch_scorer(tmp_path: Path) -> None:
    results = run_benchmark("scoring_gguf", tmp_path / "g", "--our-rows", "12", "--slow-rows", "3", "--type", "f32")
    assert results["ours"][0]["predictions"] == results["torch scorer, float32"][0]["predictions"]
    assert results["one request per row"][0]["rows"] == 3


@pytest.mark.parametrize("task", ["scope", "unseen"])
def test_words_do_not_solve_single_texts(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """A classifier of words and word pairs is right on half of the rows, although half of the labels are negated."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    single_text = importlib.import_module("single_text")
    if task == "scope":
        rows = single_text.make_rows(2500, seed=42)
        assert len(dict(rows)) == 2500 and rows == single_text.make_rows(2500, seed=42)
    else:
        parts = [single_text.make_unseen_rows(400, 42, is_training=is_training) for is_training in (True, False)]
        rows = [*parts[0], *parts[1]]
        assert not set(parts[0]) & set(parts[1])
    texts, labels = zip(*rows, strict=True)
    assert 0.45 < sum(label.startswith("posi") for label in labels) / len(labels) < 0.55
    classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    assert 0.4 < classifier.fit(texts[:-400], labels[:-400]).score(texts[-400:], labels[-400:]) < 0.6


def test_single_texts_train_in_trees(tmp_path: Path) -> None:
    sizes = ["--rows", "64", "--eval-rows", "24", "--steps", "2"]
    command = [sys.executable, "benchmarks/single_text.py", *sizes, "--out", tmp_path / "s"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    results = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["results"]
    assert results["ratio"] > 1.3 and f"padded tokens per tree node | {results['ratio']:.2f}" in finished.stdout
    assert set(results["baselines"]) == {"random", "majority", "all_inputs", "base_zero_shot"}
