"""Run folders made without training, for tests of code that reads them: recipe.yaml, run.json and evaluations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.conftest import RECIPE
from toolkit.data.example import Example
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.recipe.loading import dump_recipe, load_recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.seal import Seal, add_content_seal
from toolkit.utils.atomic_io import file_sha256, write_json, write_text

LABELS = ("entailment", "neutral", "contradiction")
HOSTILE = "<script>alert('é')</script> & \"<|eot_id|>\" {{ 7 * 7 }} </td> | \ue000"


def make_run(folder: Path, **changes: dict[str, Any]) -> RunFolder:
    """Make a trained run without weights; `changes` are merged into the sections of its recipe."""
    values = {section: {**RECIPE[section], **changes.get(section, {})} for section in {**RECIPE, **changes}}
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.recipe_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    write_text(run.recipe_file, dump_recipe(load_recipe(run.recipe_file)))
    write_json(run.adapter / "adapter_config.json", {})
    rows = {"rows": 48, "labels": dict.fromkeys(LABELS, 16), "fingerprint": "f"}
    write_json(
        run.run_json,
        {
            "status": "completed",
            "started": "2026-11-25T15:24:18+00:00",
            "versions": {"python": "3.11.7", "torch": "2.13.0", "bitsandbytes": None},
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "seed": 42,
            "device": "CPU, 2 threads",
            "model": {"name": values["model"]["name"], "folder": None, "commit": None},
            "precision": {"name": "float32", "reason": "the recipe sets model.dtype"},
            "batching": {"name": "padded", "reason": "a ratio of 1.1 is below 1.3", "verification": None},
            "data": {"train": {"source": "embedded:nli-fr:train", **rows}, "eval": {"source": "x", **rows}},
            "steps": 40,
        },
    )
    return run


def write_log(run: RunFolder, losses: list[float | None]) -> None:
    """Write a train_log.jsonl with these losses."""
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1)]
    run.train_log.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_validations(run: RunFolder, dev_nll: dict[int, float | None], kept_step: int, **fields: Any) -> None:
    """Write a train_log.jsonl of 40 steps with these validations, and run.json's record of them."""
    scores = {step: {"dev_accuracy": 0.7, "dev_macro_f1": 0.68, "dev_nll": nll} for step, nll in dev_nll.items()}
    lines = [json.dumps({"step": step, "loss": 2.0 / step} | scores.get(step, {})) for step in range(1, 41)]
    run.train_log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    best = min((nll, step) for step, nll in dev_nll.items() if nll is not None)[1]
    dev = {"source": "embedded:nli-fr:train", "rows": 24, "labels": dict.fromkeys(LABELS, 8), "fingerprint": "f"}
    validation = {
        "rows": 24, "eval_steps": 10, "reason": "at most 5% of the training time", "metric": "nll",
        "best_step": best, "best": scores[best], "kept_step": kept_step, "last_step": 40, "stopped_early": False,
        "seconds": 3.0,
    }  # fmt: skip
    run.update(data=run.record["data"] | {"dev": dev}, timings={"train_seconds": 60.0}, validation=validation | fields)


def make_predictions(n: int, seed: int = 0, inputs: Sequence[str] = NLI_INPUTS) -> tuple[list[Example], Predictions]:
    """Make rows with random scores that favor the gold label, about two thirds of them correct."""
    random = np.random.default_rng(seed)
    gold = random.integers(3, size=n)
    scores = random.normal(size=(n, 3))
    scores[np.arange(n), gold] += 1.0
    examples = [
        Example(f"row-{i}", {name: f"{HOSTILE} {name} {i}" for name in inputs}, LABELS[g], {"kind": "ab"[i % 2]})
        for i, g in enumerate(gold)
    ]
    return examples, Predictions(LABELS, [LABELS[i] for i in scores.argmax(axis=1)], scores)


def write_evaluation(run: RunFolder, name: str, n: int = 90, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """Write eval/<name>/ as `evaluate` does; `fields` replace those of metrics.json, which is returned."""
    inputs = load_recipe(run.recipe_file).task.inputs
    examples, predictions = make_predictions(n, seed, inputs)
    metrics: dict[str, Any] = {
        "n": n,
        "inputs": list(inputs),
        "labels": list(LABELS),
        "mode": "constrained",
        "model": name.partition("@")[0],
        "data": {"source": "embedded:nli-fr:dev", "fingerprint": "f"},
        "overrides": {"data.eval.path": "x"} if "@" in name else {},
        **compute_metrics(examples, predictions),
        "baselines": {"random": 1 / 3, "majority": 0.31, "hypothesis_only": 0.4821},
        "speed": {"seconds": 1.0, "examples_per_second": 90.0},
    } | fields
    predictions_file = run.eval / name / "predictions.jsonl"
    predictions_file.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(predictions_file, examples, predictions)
    if seal := Seal.from_record(run.record):
        metrics = add_content_seal(metrics, seal.adapter_sha256, name=name, predictions=file_sha256(predictions_file))
    write_json(run.eval / name / "metrics.json", metrics)
    return metrics


def write_predictions(path: Path, examples: list[Example], predictions: Predictions) -> None:
    """Write a predictions.jsonl as `evaluate` does."""
    probabilities = np.exp(predictions.log_probabilities).tolist()
    with path.open("w", encoding="utf-8") as file:
        for example, predicted, row in zip(examples, predictions.predicted, probabilities, strict=True):
            record = {"id": example.id, **example.inputs, "label": example.label, "prediction": predicted}
            record["probabilities"] = dict(zip(LABELS, row, strict=True))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
