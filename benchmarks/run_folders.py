"""Results of evaluated runs and of the baselines on their rows, for runs.py.

A result is a dict: the fields that are written to runs.json, and `_rows`, the rows with their predictions.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kept_results import Key, Result, stable_hashes

from toolkit.evaluation.prediction_files import EvaluatedRows, check_same_rows, read_evaluation

BASELINES = ("majority", "hypothesis-only", "TF-IDF pair")


def read_runs(folder: Path, *, with_baselines: bool = False) -> dict[Key, list[Result]]:
    """Return the results of each protocol, model and data set, in the order of the seeds.

    Args:
        folder: A folder with PROTOCOL/MODEL/RUN.
        with_baselines: Whether to add the baselines, fitted on the training rows of a run of each protocol.
    """
    results: dict[Key, list[Result]] = {}
    for metrics_file in sorted(folder.glob("*/*/*/eval/*/metrics.json")):
        if (entry := read_result(metrics_file.parent)) is not None:
            entries = results.setdefault((entry["protocol"], entry["model"], entry["data"]), [])
            # A model without a seed is one result, however many runs have evaluated it.
            if entry["seed"] is not None or not entries:
                entries.append(entry)
    if with_baselines:
        first_by_rows = {(protocol, data): entries[0] for (protocol, _, data), entries in reversed(results.items())}
        for (protocol, data), entry in first_by_rows.items():
            for baseline in baseline_results(entry):
                results[protocol, baseline["model"], data] = [baseline]
    return {key: sorted(entries, key=lambda entry: entry["seed"] or 0) for key, entries in results.items()}


def read_result(folder: Path) -> Result | None:
    """Return an evaluation with constrained decoding as a result, or None if it is another experiment."""
    rows = with_stable_hashes(read_evaluation(folder))
    metrics, run = rows.metrics, folder.parent.parent
    overrides = metrics.get("overrides") or {}
    # An override of anything but the evaluation rows is another experiment, and a limit leaves out rows. A longer
    # context makes room for few-shot examples.
    same = [
        key
        for key in overrides
        if key.startswith("data.eval.") or (key == "model.max_seq_length" and metrics.get("shots"))
    ]
    if "data.eval.limit" in overrides or len(same) < len(overrides):
        return None
    if metrics["mode"] != "constrained" or metrics["model"] == "merged":
        return None
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    shots = metrics.get("shots") or 0
    # Without few-shot examples, the base model is the same whatever the seed of the run is.
    seed = None if metrics["model"] == "base" and not shots else record["seed"]
    calibrated = metrics.get("cross_fitted_calibration") or {}
    return {
        "model": f"{run.parent.name}{model_suffix(metrics['model'], shots)}",
        "data": data_name(metrics["data"]["source"]),
        "protocol": run.parent.parent.name,
        "seed": seed,
        "n": metrics["n"],
        "accuracy": metrics["accuracy"],
        "interval": metrics["accuracy_ci95"],
        "macro_f1": metrics["macro"]["f1"],
        "nll": metrics["nll"],
        "ece": metrics["ece"],
        "calibrated_nll": calibrated.get("nll"),
        "calibrated_ece": calibrated.get("ece"),
        "precision": record["precision"]["name"],
        "rows_per_second": metrics.get("speed", {}).get("examples_per_second"),
        **(training_costs(record) if metrics["model"] == "adapter" else {}),
        **(agreement(folder) if metrics["model"].startswith("gguf-") else {}),
        "_rows": rows,
    }


def with_stable_hashes(rows: EvaluatedRows) -> EvaluatedRows:
    """Return the rows with hashes that are the same in each process, see kept_results.py."""
    with (rows.folder / "predictions.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    identity = ("id", *sorted(rows.inputs), "label")
    return replace(
        rows,
        row_hashes=stable_hashes([tuple(text[key] for key in identity) for text in texts]),
        group_hashes=stable_hashes([(text[rows.inputs[0]],) for text in texts]),
    )


def model_suffix(model: str, shots: int) -> str:
    """Return what follows the name of a trained model if another model of its run was evaluated, e.g. ` zero-shot`."""
    if model == "base":
        return f" {shots}-shot" if shots else " zero-shot"
    return f" {model.removeprefix('gguf-')}" if model.startswith("gguf-") else ""


def training_costs(record: dict[str, Any]) -> Result:
    """Return what training a run cost, from its run.json."""
    return {
        "train_seconds": record.get("timings", {}).get("train_seconds"),
        "peak_memory_bytes": record.get("peak_memory_bytes"),
        "trainable_parameters": record.get("trainable_parameters"),
    }


def agreement(folder: Path) -> Result:
    """Return how far the answers of a GGUF file agree with those of its adapter on the same rows.

    Args:
        folder: The evaluation of the GGUF file, next to that of the adapter, e.g. `gguf-q8_0@rte3` and `adapter@rte3`.

    Returns:
        Nothing if the adapter was not evaluated on these rows.
    """
    _, separator, data = folder.name.partition("@")
    adapter = folder.with_name(f"adapter{separator}{data}")
    if not (adapter / "metrics.json").is_file():
        return {}
    gguf, reference = read_evaluation(folder), read_evaluation(adapter)
    check_same_rows(gguf, reference)
    return {
        # As in the parity gate, answers are compared. The most probable label can be another one: decoding is greedy.
        "agreement": float((gguf.predicted == reference.predicted).mean()),
        "largest_probability_change": float(np.abs(read_probabilities(folder) - read_probabilities(adapter)).max()),
    }


def read_probabilities(folder: Path) -> np.ndarray:
    """Return the probabilities of an evaluation, [rows, labels], with the labels in alphabetical order."""
    with (folder / "predictions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line)["probabilities"] for line in lines]
    return np.array([[row[label] for label in sorted(row)] for row in rows])


def data_name(source: str) -> str:
    """Return a short name of rows: that of an embedded split, or the folder and the name of a file."""
    if source.startswith("embedded:"):
        return source.removeprefix("embedded:").replace(":", " ")
    path = Path(source.split(" ")[0])
    return f"{path.parent.name} {path.stem}"


def baseline_results(entry: Result) -> Iterator[Result]:
    """Yield the results of the baselines, which are fitted on the training rows of a run and score the same rows."""
    from sklearn.metrics import f1_score

    from toolkit.evaluation.baseline_rows import baseline_rows
    from toolkit.evaluation.intervals import wilson_interval

    for name, rows in baseline_rows(entry["_rows"]).items():
        if name in BASELINES:
            correct = int(rows.correct.sum())
            yield {
                **{key: entry[key] for key in ("data", "protocol", "n")},
                "model": name,
                "seed": None,
                "accuracy": correct / entry["n"],
                "interval": list(wilson_interval(correct, entry["n"])),
                "macro_f1": f1_score(rows.gold, rows.predicted, labels=np.unique(rows.gold), average="macro"),
                "_rows": rows,
            }
