"""One evaluation: a run's model on labelled rows, and the files that say how well it did."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.checks import Overlap, Splits, fingerprint, load_examples, load_splits
from toolkit.data.sources import EMBEDDED, describe, slug
from toolkit.decoding.engines import open_scorer, score
from toolkit.decoding.label_trie import LabelTrie
from toolkit.evaluation.baselines import base_zero_shot, baseline_accuracies, data_warnings
from toolkit.evaluation.calibration import (
    Calibration,
    apply_temperature,
    calibrate,
    calibration_rows,
    label_indices,
    reliability_bins,
)
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.plots import plot_confusion_matrix, plot_reliability
from toolkit.evaluation.terminal import terminal_report
from toolkit.prompts import PromptEncoder, load_tokenizer
from toolkit.recipe import Recipe, Source
from toolkit.recipe_file import differences, load_recipe, resolve_data_path
from toolkit.run_folder import RunFolder, atomic_path, write_json
from toolkit.task import Example


def parse_data(data: str) -> Source:
    """The source that `--data` names: a file, or `embedded:nli-fr:SPLIT`."""
    if data.startswith(f"{EMBEDDED}:"):
        return Source(path=EMBEDDED, split=data.removeprefix(f"{EMBEDDED}:"))
    return Source(path=resolve_data_path(data))


def evaluate(
    run: RunFolder, recipe: Recipe, *, model: str = "adapter", data: str | None = None, limit: int | None = None
) -> Path:
    """Decode under constraint, measure, and write metrics.json, predictions.jsonl and two pictures.

    Rows that training held back are scored as well, and a temperature is fitted on them.

    Args:
        run: a finished run.
        recipe: its recipe, with whatever the caller overrides.
        model: adapter, base, merged, or the path of a GGUF.
        data: other rows than the recipe's evaluation rows, see `parse_data`.
        limit: the first N rows only; a look, for which no temperature is fitted.

    Returns:
        The folder of the files.

    Raises:
        ToolkitError: the model, the rows or the two together cannot be used.
    """
    name = run.model_label(model)
    if not model.endswith(".gguf"):
        import toolkit.model.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
    saved = load_recipe(run.recipe)
    recipe = _with_rows(recipe, data, limit)
    splits = _load(recipe, is_foreign=data is not None)
    examples = splits.eval
    held_back, warnings = ([], []) if limit else calibration_rows(run, splits)
    encoder = PromptEncoder(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    rows = encoder.encode(examples)
    trie = LabelTrie(encoder.label_ids)
    with open_scorer(model, run, recipe, trie) as scorer:
        start = time.monotonic()
        edge_log_probs = score(scorer, [row.prompt for row in rows])
        seconds = time.monotonic() - start
        held_back_likelihoods = (
            trie.label_log_probs(score(scorer, [row.prompt for row in encoder.encode(held_back)]))
            if held_back
            else None
        )
    predictions = Predictions(trie.labels, list(trie.greedy(edge_log_probs)), trie.label_log_probs(edge_log_probs))
    calibration, untold = _calibrate(held_back, held_back_likelihoods, examples, predictions)
    baselines = _baselines(splits, recipe, run, name)
    metrics = {
        "n": len(examples),
        "labels": list(trie.labels),
        "mode": "constrained",
        "model": name,
        "data": {"source": describe(recipe.data.eval), "fingerprint": fingerprint(examples)},
        "overrides": differences(saved, recipe),
        **compute_metrics(examples, predictions, seed=recipe.seed),
        "calibration": calibration.record() if calibration else None,
        "baselines": baselines,
        "warnings": [*data_warnings(baselines, examples), *warnings, *untold],
        "shortened_rows": sum(row.shortened for row in rows),
        "speed": {"seconds": round(seconds, 3), "examples_per_second": len(examples) / seconds},
    }
    folder = run.eval / _folder_name(name, recipe, saved, limit)
    _write(folder, examples, predictions, metrics)
    print(terminal_report(examples, predictions, metrics))
    return folder


def _with_rows(recipe: Recipe, data: str | None, limit: int | None) -> Recipe:
    source = parse_data(data) if data else recipe.data.eval
    if limit:
        source = source.model_copy(update={"limit": limit})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": source})})


def _load(recipe: Recipe, *, is_foreign: bool) -> Splits:
    """The rows to score; with the training rows, where they are needed, and then leaks are refused."""
    if recipe.evaluation.baselines or recipe.data.calibration_share:
        return load_splits(recipe, is_foreign=is_foreign)
    return Splits([], load_examples(recipe, recipe.data.eval, is_foreign=is_foreign), Overlap(0, 0, 0))


def _baselines(splits: Splits, recipe: Recipe, run: RunFolder, name: str) -> dict[str, float]:
    if not recipe.evaluation.baselines:
        return {}
    found = baseline_accuracies(splits.train, splits.eval, recipe.task.labels)
    return found if name == "base" else found | base_zero_shot(run, fingerprint(splits.eval))


def _calibrate(
    held_back: list[Example], log_likelihoods: np.ndarray | None, examples: list[Example], predictions: Predictions
) -> tuple[Calibration | None, list[str]]:
    """The calibration; none, and a sentence of warning, where held-back rows do not tell a temperature."""
    if log_likelihoods is None:
        return None, []
    labels = predictions.labels
    found = calibrate(
        (log_likelihoods, label_indices([row.label for row in held_back], labels)),
        (predictions.log_likelihoods, label_indices([row.label for row in examples], labels)),
    )
    if not found.is_unfounded:
        return found, []
    return None, [
        f"No temperature was fitted: all {found.rows} rows held back are right, which does not say how sure is "
        "too sure. Raise data.calibration_share."
    ]


def _folder_name(name: str, recipe: Recipe, saved: Recipe, limit: int | None) -> str:
    """`name` alone is kept for the run's own recipe; what was overridden stands in metrics.json."""
    changed = [key for key in differences(saved, recipe) if not key.startswith("evaluation.")]
    return f"{name}@{slug(recipe.data.eval)}" + (f"-limit{limit}" if limit else "") if changed else name


def _write(folder: Path, examples: list[Example], predictions: Predictions, metrics: dict[str, Any]) -> None:
    title = f"{metrics['model']}: {metrics['accuracy']:.1%} of {metrics['n']:,} rows"
    with atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        write_json(partial / "metrics.json", metrics)
        with (partial / "predictions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for line in _prediction_lines(examples, predictions):
                file.write(line + "\n")
        plot_confusion_matrix(metrics["confusion_matrix"], metrics["labels"], title, partial / "confusion_matrix.png")
        _plot_reliability(examples, predictions, metrics, partial / "reliability.png")


def _plot_reliability(examples: list[Example], predictions: Predictions, metrics: dict[str, Any], path: Path) -> None:
    gold = label_indices([example.label for example in examples], predictions.labels)
    temperatures = {"as the model says": 1.0}
    if metrics["calibration"]:
        found = metrics["calibration"]["temperature"]
        temperatures[f"calibrated, temperature {found:.2f}"] = found
    panels = {
        title: reliability_bins(np.exp(apply_temperature(predictions.log_likelihoods, temperature)), gold)
        for title, temperature in temperatures.items()
    }
    plot_reliability(panels, f"{metrics['model']}: {metrics['n']:,} rows", path)


def _prediction_lines(examples: list[Example], predictions: Predictions) -> list[str]:
    probabilities = np.exp(predictions.log_probabilities).tolist()
    return [
        json.dumps(
            {
                "id": example.id,
                "premise": example.premise,
                "hypothesis": example.hypothesis,
                "label": example.label,
                "prediction": predicted,
                "probabilities": dict(zip(predictions.labels, row, strict=True)),
            },
            ensure_ascii=False,
        )
        for example, predicted, row in zip(examples, predictions.predicted, probabilities, strict=True)
    ]
