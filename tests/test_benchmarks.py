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


BENCHMARKS = ["export", "interference", "kills", "memory", "scoring", "scoring_gguf", "single_text", "training"]


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


def test_tree_scoring_matches_constrained_generation(tmp_path: Path) -> None:
    results = run_benchmark(
        "scoring", tmp_path / "s", "--rows", "8", "--our-rows", "12", "--systems", "generate, batched", "ours"
    )
    assert results["ours"][0]["predictions"][:8] == results["generate, batched"][0]["predictions"]


def test_gguf_scoring_matches_the_torch_scorer(tmp_path: Path) -> None:
    results = run_benchmark("scoring_gguf", tmp_path / "g", "--our-rows", "12", "--slow-rows", "3", "--type", "f32")
    assert results["ours"][0]["predictions"] == results["torch scorer, float32"][0]["predictions"]
    assert results["one request per row"][0]["rows"] == 3


@pytest.mark.parametrize(("descriptions", "count"), [(1, 1500), (2, 2500)])
def test_words_do_not_solve_single_texts(monkeypatch: pytest.MonkeyPatch, descriptions: int, count: int) -> None:
    """A classifier of words and word pairs is right on half of the rows, although half of the labels are negated."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    make_rows = importlib.import_module("single_text").make_rows
    rows = make_rows(count, 42, descriptions)
    assert len(dict(rows)) == count and rows == make_rows(count, 42, descriptions)
    texts, labels = zip(*rows, strict=True)
    assert 0.47 < labels.count("positif") / len(labels) < 0.53
    classifier = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    assert 0.4 < classifier.fit(texts[:-500], labels[:-500]).score(texts[-500:], labels[-500:]) < 0.6


def test_single_texts_train_in_trees(tmp_path: Path) -> None:
    sizes = ["--rows", "64", "--eval-rows", "24", "--steps", "2"]
    command = [sys.executable, "benchmarks/single_text.py", *sizes, "--out", tmp_path / "s"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    results = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["results"]
    assert results["ratio"] > 1.3 and f"padded tokens per tree node | {results['ratio']:.2f}" in finished.stdout
    assert set(results["baselines"]) == {"random", "majority", "all_inputs", "base_zero_shot"}
