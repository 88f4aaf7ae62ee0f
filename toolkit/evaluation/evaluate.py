"""One evaluation: a run's model on labelled rows, and the files that say how well it did."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.checks import fingerprint, load_examples, load_splits
from toolkit.data.sources import EMBEDDED, describe, slug
from toolkit.decoding.classifiers import open_classifier
from toolkit.evaluation.baselines import baseline_accuracies
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.plots import plot_confusion_matrix
from toolkit.evaluation.report import terminal_report
from toolkit.pairs import row_encoder
from toolkit.prompts import load_tokenizer
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
    """Decode under constraint, measure, and write metrics.json, predictions.jsonl and confusion_matrix.png.

    Args:
        run: a finished run.
        recipe: its recipe, with whatever the caller overrides.
        model: adapter, base, merged, or the path of a GGUF.
        data: other rows than the recipe's evaluation rows, see `parse_data`.
        limit: the first N rows only.

    Returns:
        The folder of the files.

    Raises:
        ToolkitError: the model, the rows or the two together cannot be used.
    """
    name = run.model_label(model, recipe.model.kind)
    if not model.endswith(".gguf"):
        import toolkit.model.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
    saved = load_recipe(run.recipe)
    source = parse_data(data) if data else recipe.data.eval
    if limit:
        source = source.model_copy(update={"limit": limit})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": source})})
    examples, baselines = _load(recipe, is_foreign=data is not None)
    encoder = row_encoder(load_tokenizer(run.adapter), recipe)
    rows = encoder.encode(examples)
    with open_classifier(model, run, recipe, encoder) as classifier:
        start = time.monotonic()
        scores = classifier.label_scores(rows)
        seconds = time.monotonic() - start
    predictions = Predictions(scores.labels, list(scores.decoded), scores.log_likelihoods)
    metrics = {
        "n": len(examples),
        "labels": list(scores.labels),
        "mode": "constrained",
        "model": name,
        "data": {"source": describe(source), "fingerprint": fingerprint(examples)},
        "overrides": differences(saved, recipe),
        **compute_metrics(examples, predictions),
        "baselines": baselines,
        "shortened_rows": sum(row.shortened for row in rows),
        "speed": {"seconds": round(seconds, 3), "examples_per_second": len(examples) / seconds},
    }
    folder = run.eval / _folder_name(name, recipe, saved, limit)
    _write(folder, examples, predictions, metrics)
    print(terminal_report(examples, predictions, metrics))
    return folder


def _load(recipe: Recipe, *, is_foreign: bool) -> tuple[list[Example], dict[str, float]]:
    """The rows to score, and the baselines, which need the training rows; with those at hand, leaks are refused."""
    if not recipe.evaluation.baselines:
        return load_examples(recipe, recipe.data.eval, is_foreign=is_foreign), {}
    splits = load_splits(recipe, is_foreign=is_foreign)
    return splits.eval, baseline_accuracies(splits.train, splits.eval, recipe.task.labels)


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
