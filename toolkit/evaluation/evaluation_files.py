"""Writing of an evaluation's files: metrics.json, predictions.jsonl and plots."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.example import Example
from toolkit.errors import first_line
from toolkit.evaluation.calibration import label_indices, reliability_bins
from toolkit.evaluation.confusion import confusion_table
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.evaluation.metrics import Predictions
from toolkit.evaluation.plots import plot_confusion_matrix, plot_reliability
from toolkit.runs.seal import add_content_seal
from toolkit.utils.atomic_io import atomic_path, file_sha256, write_json

logger = logging.getLogger(__name__)


def write_evaluation(
    folder: Path,
    examples: Sequence[Example],
    predictions: Predictions,
    metrics: dict[str, Any],
    adapter_sha256: str | None,
) -> dict[str, Any]:
    """Write an evaluation's folder atomically and replace an older one, then draw its plots.

    A plot that cannot be drawn is reported as a warning. It is no reason to lose the results of hours of scoring.

    Args:
        folder: The folder to write, a run's eval/<name>.
        examples: The evaluation rows.
        predictions: The predictions for these rows.
        metrics: The contents of metrics.json.
        adapter_sha256: The digest of the measured adapter for the seal of metrics.json, or None if it is unknown.

    Returns:
        The metrics with their seal, as they were written.
    """
    with atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        with (partial / "predictions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for line in _prediction_lines(examples, predictions):
                file.write(line + "\n")
        digest = file_sha256(partial / "predictions.jsonl")
        metrics = add_content_seal(metrics, adapter_sha256, name=folder.name, predictions=digest)
        write_json(partial / "metrics.json", metrics)
    title = f"{metrics['model']}: {metrics['accuracy']:.1%} accuracy on {metrics['n']:,} rows"
    # Only now: even if the process is killed while it draws, the results are complete under their final name, and no
    # plot of an older evaluation is next to them.
    with _plot_file(folder / "confusion_matrix.png") as file_path:
        plot_confusion_matrix(confusion_table(metrics), title, file_path)
    if predictions.log_likelihoods is not None:
        gold = label_indices([example.label for example in examples], predictions.labels)
        with _plot_file(folder / "reliability.png") as file_path:
            _plot_reliability(predictions.log_likelihoods, predictions.merged, gold, metrics, file_path)
    return metrics


@contextmanager
def _plot_file(path: Path) -> Iterator[Path]:
    """Yield the scratch path of a plot, and log a warning instead of raising if the plot cannot be drawn."""
    try:
        # matplotlib warns of each character that its font lacks, such as Chinese ones, and draws a box for it.
        with atomic_path(path) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            yield partial
    except Exception as error:  # matplotlib and its fonts raise errors of many types
        logger.warning(
            "WARNING     %s was not drawn: %s. The results are complete without it.",
            path,
            first_line(error).rstrip("."),
        )


def _plot_reliability(
    log_likelihoods: np.ndarray, merged: MergedLabels, gold: np.ndarray, metrics: dict[str, Any], path: Path
) -> None:
    temperatures = {"uncalibrated": 1.0}
    if metrics["calibration"]:
        fitted = metrics["calibration"]["temperature"]
        temperatures[f"calibrated, temperature {fitted:.2f}"] = fitted
    panels = {
        title: reliability_bins(np.exp(merged.log_probabilities(log_likelihoods, temperature)), gold)
        for title, temperature in temperatures.items()
    }
    plot_reliability(panels, f"{metrics['model']}: {metrics['n']:,} rows", path)


def _prediction_lines(examples: Sequence[Example], predictions: Predictions) -> Iterator[str]:
    log_probs = predictions.log_probabilities
    for number, (example, predicted) in enumerate(zip(examples, predictions.predicted, strict=True)):
        row: dict[str, Any] = {
            "id": example.id,
            **example.inputs,
            "label": example.label,
            "prediction": predicted,
        }
        if log_probs is None:
            row |= {"probabilities": None, "answer": predictions.answers[number]}
        else:
            row["probabilities"] = dict(zip(predictions.labels, np.exp(log_probs[number]).tolist(), strict=True))
        yield json.dumps(row, ensure_ascii=False)
