"""The benchmarks run, all systems do the same work, and the documentation shows what the benchmarks measured."""

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT

EMBEDDED = ["embedded:tiny-llama-fr", "--recipe", "recipes/quickstart.yaml", "--rounds", "1"]


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def run_benchmark(name: str, out: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Run a benchmark and return its results by the name of the system."""
    return {result["name"]: result for result in run_any(name, out, *EMBEDDED, *arguments)}


def run_any(name: str, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a benchmark, check that it prints the table of its results, and return them."""
    command = [sys.executable, f"benchmarks/{name}.py", *arguments, "--out", str(out)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    results = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert environment["command"] == " ".join(["python", *command[1:]]) or "'" in environment["command"]
    assert environment["versions"]["cpu"] and environment["versions"]["torch"] and environment["date"] >= "2026"
    lines = finished.stdout.splitlines()
    assert lines[0] == f"### {environment['title']}" and lines[2].startswith("| ") and lines[3].startswith("| ---")
    return results


BENCHMARKS = [
    "export",
    "family_memory",
    "gpu",
    "gpu_families",
    "interference",
    "kills",
    "memory",
    "runs",
    "scoring",
    "scoring_gguf",
    "single_text",
    "tables",
    "training",
]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_prints_its_help(name: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0 and "usage:" in finished.stdout, finished.stderr


def test_tree_gradient_matches_trl_on_unsloth(tmp_path: Path) -> None:
    systems = ["--systems", "trl on unsloth", "ours, shuffled"]
    results = run_benchmark("training", tmp_path, "--steps", "1", "--batch", "8", *systems)
    peer, ours = results["trl on unsloth"], results["ours, shuffled"]
    assert ours["gradient_differences"] == {"trl on unsloth": ours["gradient_difference"]}
    assert ours["gradient_difference"] < 1e-5 and peer["gradient_difference"] is None
    assert ours["against"] == {
        "trl on unsloth": pytest.approx(peer["seconds_per_step"] / ours["seconds_per_step"], 1e-3)
    }
    assert ours["tokens_per_step"] < peer["tokens_per_step"] and ours["peak_gb"] > 0.1


def test_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    rows = "toolkit/embedded/nli_fr_rows/dev.jsonl"
    cases = run_any("gpu", tmp_path, *EMBEDDED[:3], "--smoke", "--score", rows, rows)
    assert {case["system"] for case in cases} >= {
        "transformers", "padding-free Unsloth", "tree, shuffled", "scoring, sorted", "scoring, shuffled"
    }  # fmt: skip
    expected = "not run: vllm is not installed" if importlib.util.find_spec("vllm") is None else None
    assert all(case["error"] == (expected if case["precision"] == "vLLM" else None) for case in cases)
    assert {case["rows"] for case in cases if case["system"].startswith("scoring") and not case["error"]} == {64}
    assert all(case["gradient_difference"] < 1e-4 for case in cases if case["gradient_difference"] is not None)
    lengths = {case["multiple"]: case["tokens"][0] for case in cases if case["system"] == "tree, grouped"}
    assert lengths[128] % 128 == 0 and lengths[1] < lengths[128]


def test_tree_scoring_matches_constrained_generation(tmp_path: Path) -> None:
    results = run_benchmark(
        "scoring", tmp_path, "--rows", "8", "--our-rows", "12", "--systems", "generate, batched", "ours"
    )
    assert results["generate, batched"]["equal_predictions"] == results["generate, batched"]["rows"] == 8
    assert results["ours"]["rows"] == 12 and results["ours"]["our_speedup"] is None


def test_gguf_scoring_matches_the_torch_scorer(tmp_path: Path) -> None:
    results = run_benchmark("scoring_gguf", tmp_path, "--our-rows", "12", "--slow-rows", "3", "--type", "f32")
    assert results["torch scorer, float32"]["equal_predictions"] == results["ours"]["rows"] == 12
    assert results["one request per row"]["rows"] == 3


@pytest.mark.parametrize("task", ["scope", "unseen"])
def test_words_do_not_solve_single_texts(import_benchmark: Any, task: str) -> None:
    """A classifier of words and word pairs is right on half of the rows, although half of the labels are negated."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    single_text = import_benchmark("single_text")
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
    (result,) = run_any("single_text", tmp_path, *sizes)
    assert result["ratio"] > 1.3
    assert set(result["baselines"]) == {"random", "majority", "all_inputs", "base_zero_shot"}


def test_vllm_scores_sorted_and_shuffled_prompts(import_benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM gets all prompts in the case's order, can generate only first tokens of labels, and starts uncached."""
    batches: list[tuple[bool, list[list[int]]]] = []

    class LLM:
        def __init__(self, *_: Any, max_model_len: int, enable_prefix_caching: bool, **__: Any) -> None:
            assert enable_prefix_caching and max_model_len == 4
            self.is_cached = False

        def generate(self, prompts: Any, settings: Any, **_: Any) -> list[Any]:
            assert settings.max_tokens == 1 and settings.allowed_token_ids == [7, 8]
            batches.append((self.is_cached, [prompt["prompt_token_ids"] for prompt in prompts]))
            self.is_cached = True
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7])])] * len(prompts)

        def reset_prefix_cache(self) -> None:
            self.is_cached = False

    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    prompts = [[3, 1, 2], [1, 1, 2], [2, 1, 2]]
    cases, scoring = import_benchmark("gpu_cases"), import_benchmark("gpu_scoring")
    job = {"model_folder": "model", "prompts": prompts, "labels": {"yes": [8, 9], "no": [7, 9], "maybe": [7, 6]}}
    run = scoring.open_vllm(job)
    for system in cases.SCORING:
        result = run(cases.Case(system))
        assert result["rows"] == 3 and result["peak_bytes"] is None
    _, (is_cached, in_order), _, (is_still_cached, shuffled) = batches  # a warm-up comes before each measurement
    assert not is_cached and not is_still_cached
    assert in_order == sorted(prompts) == sorted(shuffled) and shuffled != in_order


def test_failed_gpu_process_keeps_its_finished_cases(import_benchmark: Any, tmp_path: Path) -> None:
    gpu, cases = import_benchmark("gpu"), import_benchmark("gpu_cases")
    first, second = (vars(case) for case in (cases.Case("tree, grouped", 16), cases.Case("tree, grouped", 64)))
    done = {**first, "precision": "4-bit", **cases.NO_RESULT, "seconds": [0.5], "tokens": [7], "peak_bytes": 1e9}
    (tmp_path / "log").write_text(json.dumps(done) + "\n", encoding="utf-8")
    script = tmp_path / "worker.py"
    script.write_text("import sys\nsys.exit('CUDA error')", encoding="utf-8")
    job = {"log": str(tmp_path / "log"), "cases": {"4-bit": [first, second]}}
    ends = {"4-bit": time.time() + 100}
    ((result,),) = import_benchmark("side_by_side").take_turns(str(script), job, ["4-bit"], 1, ends).values()
    assert result["error"] == "exit code 1: CUDA error"
    results = gpu.list_cases(job, "4-bit", result)
    assert [row[4] for row in gpu.table(results)[1:]] == ["500", "exit code 1: CUDA error"]


def test_documents_match_their_results() -> None:
    """Fails until `python benchmarks/tables.py` is run after a change of the results."""
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_tables_are_generated_from_results(import_benchmark: Any) -> None:
    tables = import_benchmark("tables")
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert not [line for line in tables.BLOCK.sub("", text).splitlines() if line.startswith(("|", "<!-- table"))]
    documents = "".join(path.read_text(encoding="utf-8") for path in tables.DOCUMENTS)
    names = {block["name"] for block in tables.BLOCK.finditer(documents)}
    assert {folder.name for folder in tables.RESULTS.iterdir()} <= names


def test_changed_results_change_the_document(
    import_benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tables = import_benchmark("tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = "Before.\n<!-- table: training-x -->\n| old |\n<!-- end -->\nAfter, 5 < 6.\n"
    assert "Not measured yet." in tables.render(text)
    folder = tmp_path / "training-x"
    folder.mkdir()
    system = {"name": "ours, grouped", "seconds_per_step": 0.5, "against": {"ours, grouped": 1.0}, "peak_gb": 1,
              "gradient_differences": {"a": 1e-6, "b": 2e-7}, "tokens_per_step": 1234.4}  # fmt: skip
    (folder / "training.json").write_text(json.dumps([system]), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"date": "2026-11-27", "versions": {"cpu": "A CPU"}}), "utf-8")
    rendered = tables.render(text)
    assert rendered.startswith("Before.\n<!-- table: training-x -->\n| system | s per step | vs. ours, grouped |")
    assert "| ours, grouped | 0.5 | 1.00x | 1,234 | 1.00x | 1.00 | 1.0e-06, 2.0e-07 |\n" in rendered
    assert rendered.endswith("2026-11-27, A CPU.\n<!-- end -->\nAfter, 5 < 6.\n")
    assert tables.render(rendered) == rendered


def test_prediction_is_drawn_and_extrapolated(import_benchmark: Any, tmp_path: Path) -> None:
    samples = [{"rows": 1000 * i, "seconds": 10.0 * i, "resident_gb": 2.0} for i in (1, 2, 3, 4, 4)]
    result = {"rows": 4000, "seconds": 41.5, "rows_per_second": 100.0, "peak_gb": 2.5, "samples": samples,
              "extrapolated_hours_per_million": 2.78, "device": "CPU", "versions": {"cpu": "A CPU"}}  # fmt: skip
    (tmp_path / "predicting").mkdir()
    (tmp_path / "predicting" / "predicting.json").write_text(json.dumps(result), encoding="utf-8")
    drawing = import_benchmark("figures").predicting(tmp_path)
    assert "rows per second" in drawing and drawing == import_benchmark("figures").predicting(tmp_path)
    table = import_benchmark("tables").render_table(tmp_path / "predicting", None)
    assert "| 4,000 | 42 | 100.0 | 2.00, 2.00 | 2.50 | 2.8 |" in table and table.endswith("predicting), A CPU.\n")
