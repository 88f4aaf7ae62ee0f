"""From a trained run to its evaluations and its GGUF files, through the user's commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    copy = tmp_path_factory.mktemp("main") / "small"
    shutil.copytree(trained.path, copy)
    return RunFolder(copy)


def read(run: RunFolder, name: str) -> tuple[dict, list[dict]]:  # type: ignore[type-arg]
    folder = run.eval / name
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8")), [json.loads(line) for line in lines]


def test_adapter_merged_and_gguf_agree(call: Call, run: RunFolder) -> None:
    code, out, err = call("export_gguf", run.path, "--quant", "f16", "q8_0")
    assert code == 0, err
    assert "gguf-f16" in out and "passed" in out and "24/24 100.0%" in out
    names = {
        "adapter": "adapter",
        "base": "base",
        "merged": "merged",
        "gguf-f16": run.gguf("f16"),
        "gguf-q8_0": run.gguf("q8_0"),
    }
    for model in names.values():
        code, out, err = call("eval_generate", run.path, "--model", model)
        assert code == 0, err
        assert "macro avg" in out and "hypothesis_only" in out and "phenomenon" in out
    results = {name: read(run, name) for name in names}
    for name, (metrics, rows) in results.items():
        assert metrics["model"] == name and metrics["n"] == len(rows) == 24
        assert metrics["invalid"] == 0 and metrics["mode"] == "constrained"
        assert [row["id"] for row in rows] == [f"nli-fr-dev-{i:04}" for i in range(1, 25)]
        for row in rows:
            assert set(row) == {"id", "premise", "hypothesis", "label", "prediction", "probabilities"}
            assert row["prediction"] in metrics["labels"]
            assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert {"random", "majority"} <= metrics["baselines"].keys()
        assert sum(group["n"] for group in metrics["slices"]["phenomenon"].values()) == 24

    def largest_difference(a: str, b: str) -> float:
        pairs = zip(results[a][1], results[b][1], strict=True)
        return max(
            abs(x["probabilities"][label] - y["probabilities"][label]) for x, y in pairs for label in x["probabilities"]
        )

    assert largest_difference("adapter", "base") > 0.1, "the adapter changes too little for this test"
    # Merged weights are rounded to bfloat16, which has 8 bits of precision (measured: 2.2e-2, large random weights).
    assert largest_difference("adapter", "merged") < 0.05
    # With 16-bit weights llama.cpp also rounds activations. The size depends on the CPU kernels (measured: 2.4e-3).
    assert largest_difference("merged", "gguf-f16") < 5e-3
    assert largest_difference("merged", "gguf-q8_0") < 0.1


def test_other_data_gets_its_own_folder(call: Call, run: RunFolder, tmp_path: Path) -> None:
    assert call("eval_generate", run.path, "--data", "embedded:nli-fr:test", "--limit", "6")[0] == 0
    assert read(run, "adapter@nli-fr-test-limit6")[0]["n"] == 6
    rows = tmp_path / "mine" / "rows.jsonl"
    rows.parent.mkdir()
    row = {"premise": "Il pleut.", "hypothesis": "Il ne pleut pas.", "label": "contradiction"}
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert call("eval_generate", run.path, "--data", rows)[0] == 0
    metrics, predictions = read(run, "adapter@mine-rows")
    assert metrics["data"]["source"] == str(rows) and predictions[0]["id"] == "1" and metrics["slices"] == {}


def test_overrides_get_their_own_folder(call: Call, run: RunFolder) -> None:
    """An evaluation with overrides does not replace the results of the unchanged recipe."""
    for system in ("Autre.", "Juge."):
        changes = ("--set", f"task.system={system}", "--set", "data.eval.limit=3")
        assert call("eval_generate", run.path, *changes)[0] == 0
    folders = sorted(run.eval.glob("adapter@nli-fr-dev-set*-limit3"))
    overrides = [read(run, folder.name)[0]["overrides"] for folder in folders]
    assert {override["task.system"] for override in overrides} == {"Autre.", "Juge."}
    assert [override["data.eval.limit"] for override in overrides] == [3, 3]


def test_training_rows_are_rejected_for_evaluation(call: Call, run: RunFolder) -> None:
    code, _, err = call("eval_generate", run.path, "--data", "embedded:nli-fr:train", "--limit", "6")
    assert code == 2 and "occur in both data.train and data.eval" in err


@pytest.mark.parametrize("model", ["adapter", "gguf"])
def test_free_mode_counts_invalid_answers(call: Call, run: RunFolder, model: str) -> None:
    """Answers that are not a label have no prediction, and no row has probabilities."""
    chosen = run.gguf("f16") if model == "gguf" else model
    code, out, err = call("eval_generate", run.path, "--model", chosen, "--mode", "free")
    assert code == 0, err
    metrics, rows = read(run, f"{'gguf-f16' if model == 'gguf' else model}@nli-fr-dev-free")
    assert metrics["mode"] == "free" and metrics["nll"] is metrics["ece"] is None
    invalid = [row for row in rows if row["prediction"] is None]
    assert metrics["invalid"] == len(invalid) == sum(metrics["invalid_by_label"].values())
    assert sum(map(sum, metrics["confusion_matrix"])) + len(invalid) == 24
    for row in rows:
        assert row["probabilities"] is None
        assert row["prediction"] == (row["answer"].strip() if row["answer"].strip() in metrics["labels"] else None)
    assert sum(count for _, count in metrics["invalid_answers"]) <= len(invalid)
    assert ("of the answers are not a label" in out) == bool(invalid)


def test_free_mode_agrees_between_torch_and_gguf(call: Call, run: RunFolder) -> None:
    assert call("eval_generate", run.path, "--model", "merged", "--mode", "free")[0] == 0
    torch, gguf = (read(run, f"{model}@nli-fr-dev-free")[1] for model in ("merged", "gguf-f16"))
    # Rounding differs slightly with 16-bit weights, so the random model can answer differently at a near tie.
    assert sum(a["answer"] == b["answer"] for a, b in zip(torch, gguf, strict=True)) >= 22


def test_shots_change_scores_and_get_a_folder(call: Call, run: RunFolder) -> None:
    length = ("--set", "model.max_seq_length=512")
    code, _, err = call("eval_generate", run.path, "--model", "base", "--shots", "3", *length)
    assert code == 0, err
    (shots,) = run.eval.glob("base@nli-fr-dev-shots3-set*")
    metrics, rows = read(run, shots.name)
    assert metrics["shots"] == 3 and metrics["invalid"] == 0 and len(rows) == 24
    assert call("eval_generate", run.path, "--model", "base", *length)[0] == 0
    without, _ = read(run, shots.name.replace("-shots3", ""))
    assert without["shots"] == 0 and without["nll"] != metrics["nll"]


def test_predicted_file_matches_the_evaluation(call: Call, run: RunFolder, tmp_path: Path) -> None:
    for model in ("adapter", run.gguf("f16")):
        assert call("eval_generate", run.path, "--model", model)[0] == 0
        _, rows = read(run, ModelRef.parse(model).evaluation_name(run))
        texts = [{"premise": row["premise"], "hypothesis": row["hypothesis"], "kept": [1]} for row in rows]
        source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
        code, out, err = call("predict", run.path, "--model", model, "--input", source, "--output", target)
        assert code == 0 and str(target) in out, err
        predicted = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        for row, text, expected in zip(predicted, texts, rows, strict=True):
            assert {key: row[key] for key in text} == text and row["prediction"] == expected["prediction"]
            assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-3)
    code, out, _ = call("predict", run.path, "--premise", rows[0]["premise"], "--hypothesis", rows[0]["hypothesis"])
    assert code == 0 and out.splitlines()[0] in rows[0]["probabilities"] and len(out.splitlines()) == 4


def test_export_can_remove_merged_weights(call: Call, run: RunFolder) -> None:
    assert call("export_gguf", run.path, "--quant", "q8_0", "--remove-merged")[0] == 0
    assert not run.merged.exists() and run.gguf("q8_0").is_file()
