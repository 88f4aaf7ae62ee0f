"""Writing of an evaluation's files: metrics.json, predictions.jsonl and plots."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.example import Example
from toolkit.evaluation.calibration import apply_temperature, label_indices, reliability_bins
from toolkit.evaluation.metrics import Predictions
from toolkit.evaluation.plots import plot_confusion_matrix, plot_reliability
from toolkit.utils.atomic_io import atomic_path, write_json


def write_evaluation(
    folder: Path, examples: Sequence[Example], predictions: Predictions, metrics: dict[str, Any]
) -> None:
    """Write an evaluation's folder atomically and replace an older one.

    Args:
        folder: The folder to write, a run's eval/<name>.
        examples: The evaluation rows.
        predictions: The predictions for these rows.
        metrics: The contents of metrics.json.
    """
    title = f"{metrics['model']}: {metrics['accuracy']:.1%} accuracy on {metrics['n']:,} rows"
    with atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        write_json(partial / "metrics.json", metrics)
        with (partial / "predictions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for line in _prediction_lines(examples, predictions):
                file.write(line + "\n")
        # Constrained decoding can only give labels.
        invalid = list(metrics["invalid_by_label"].values()) if metrics["mode"] == "free" else None
        plot_file = partial / "confusion_matrix.png"
        plot_confusion_matrix(metrics["confusion_matrix"], metrics["labels"], title, plot_file, invalid=invalid)
        if predictions.log_likelihoods is not None:
            gold = label_indices([example.label for example in examples], predictions.labels)
            _plot_reliability(predictions.log_likelihoods, gold, metrics, partial / "reliability.png")


def _plot_reliability(log_likelihoods: np.ndarray, gold: np.ndarray, metrics: dict[str, Any], path: Path) -> None:
    temperatures = {"uncalibrated": 1.0}
    if metrics["calibration"]:
        fitted = metrics["calibration"]["temperature"]
        temperatures[f"calibrated, temperature {fitted:.2f}"] = fitted
    panels = {
        title: reliability_bins(np.exp(apply_temperature(log_likelihoods, temperature)), gold)
        for title, temperature in temperatures.items()
    }
    plot_reliability(panels, f"{metrics['model']}: {metrics['n']:,} rows", path)


def _prediction_lines(examples: Sequence[Example], predictions: Predictions) -> Iterator[str]:
    log_probs = predictions.log_probabilities
    for number, (example, predicted) in enumerate(zip(examples, predictions.predicted, strict=True)):
        row: dict[str, Any] = {
            "id": example.id,
            "premise": example.premise,
            "hypothesis": example.hypothesis,
            "label": example.label,
            "prediction": predicted,
        }
        if log_probs is None:
            row |= {"probabilities": None, "answer": predictions.answers[number]}
        else:
            row["probabilities"] = dict(zip(predictions.labels, np.exp(log_probs[number]).tolist(), strict=True))
        yield json.dumps(row, ensure_ascii=False)
