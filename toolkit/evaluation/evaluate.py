"""One evaluation: a run's model on labelled rows, and the files that say how well it did."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.data.checks import fingerprint, load_examples, load_splits
from toolkit.data.few_shot import draw_shots, refuse_shots
from toolkit.data.sources import EMBEDDED, describe, slug
from toolkit.decoding.engines import open_scorer, score
from toolkit.decoding.label_trie import LabelTrie
from toolkit.evaluation.baselines import baseline_accuracies
from toolkit.evaluation.invalid import invalid_figures
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.plots import plot_confusion_matrix
from toolkit.evaluation.report import terminal_report
from toolkit.prompts import PromptEncoder, load_tokenizer
from toolkit.recipe import Recipe, Source
from toolkit.recipe_file import differences, load_recipe, resolve_data_path
from toolkit.run_folder import RunFolder, atomic_path, write_json
from toolkit.task import Example

Mode = Literal["constrained", "free"]


def parse_data(data: str) -> Source:
    """The source that `--data` names: a file, or `embedded:nli-fr:SPLIT`."""
    if data.startswith(f"{EMBEDDED}:"):
        return Source(path=EMBEDDED, split=data.removeprefix(f"{EMBEDDED}:"))
    return Source(path=resolve_data_path(data))


def evaluate(
    run: RunFolder,
    recipe: Recipe,
    *,
    model: str = "adapter",
    data: str | None = None,
    limit: int | None = None,
    mode: Mode = "constrained",
    shots: int = 0,
) -> Path:
    """Decode, measure, and write metrics.json, predictions.jsonl and confusion_matrix.png.

    Args:
        run: a finished run.
        recipe: its recipe, with whatever the caller overrides.
        model: adapter, base, merged, or the path of a GGUF.
        data: other rows than the recipe's evaluation rows, see `parse_data`.
        limit: the first N rows only.
        mode: constrained to the labels, or free.
        shots: training rows that stand solved before each question, see `draw_shots`; for the base model alone.

    Returns:
        The folder of the files.

    Raises:
        ToolkitError: the model, the rows or the two together cannot be used.
    """
    name = run.model_label(model)
    refuse_shots(model, shots)
    if not model.endswith(".gguf"):
        import toolkit.model.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
    saved = load_recipe(run.recipe)
    source = parse_data(data) if data else recipe.data.eval
    if limit:
        source = source.model_copy(update={"limit": limit})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": source})})
    examples, baselines, shown = _load(recipe, is_foreign=data is not None, shots=shots)
    encoder = PromptEncoder(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length, shown)
    rows = encoder.encode(examples)
    decode = _decode_freely if mode == "free" else _decode_constrained
    predictions, seconds = decode(model, run, recipe, encoder, [row.prompt for row in rows])
    metrics = {
        "n": len(examples),
        "labels": list(predictions.labels),
        "mode": mode,
        "shots": shots,
        "model": name,
        "data": {"source": describe(source), "fingerprint": fingerprint(examples)},
        "overrides": differences(saved, recipe),
        **compute_metrics(examples, predictions),
        **invalid_figures(examples, predictions),
        "baselines": baselines,
        "shortened_rows": sum(row.shortened for row in rows),
        "speed": {"seconds": round(seconds, 3), "examples_per_second": len(examples) / seconds},
    }
    folder = run.eval / _folder_name(name, recipe, saved, mode, shots, limit)
    _write(folder, examples, predictions, metrics)
    print(terminal_report(examples, predictions, metrics))
    return folder


def _load(recipe: Recipe, *, is_foreign: bool, shots: int) -> tuple[list[Example], dict[str, float], list[Example]]:
    """The rows to score, the baselines, and the shots; with training rows, which both need, leaks are refused."""
    if not recipe.evaluation.baselines and not shots:
        return load_examples(recipe, recipe.data.eval, is_foreign=is_foreign), {}, []
    splits = load_splits(recipe, is_foreign=is_foreign)
    labels = recipe.task.labels
    shown = draw_shots(splits.train, splits.eval, labels, shots, recipe.seed)
    baselines = baseline_accuracies(splits.train, splits.eval, labels) if recipe.evaluation.baselines else {}
    return splits.eval, baselines, shown


def _decode_constrained(
    model: str, run: RunFolder, recipe: Recipe, encoder: PromptEncoder, prompts: list[tuple[int, ...]]
) -> tuple[Predictions, float]:
    """Predictions, and the seconds they took."""
    trie = LabelTrie(encoder.label_ids)
    with open_scorer(model, run, recipe, trie) as scorer:
        start = time.monotonic()
        edge_log_probs = score(scorer, prompts)
        seconds = time.monotonic() - start
    return Predictions(trie.labels, list(trie.greedy(edge_log_probs)), trie.label_log_probs(edge_log_probs)), seconds


def _decode_freely(
    model: str, run: RunFolder, recipe: Recipe, encoder: PromptEncoder, prompts: list[tuple[int, ...]]
) -> tuple[Predictions, float]:
    """Predictions, and the seconds they took."""
    from toolkit.decoding.free import match_verbalizer, open_generator

    with open_generator(model, run, recipe, encoder) as generator:
        start = time.monotonic()
        answers = [encoder.decode_answer(ids) for ids in generator.generate(prompts)]
        seconds = time.monotonic() - start
    predicted = [match_verbalizer(text, recipe.task.verbalizers) for text in answers]
    return Predictions(tuple(recipe.task.labels), predicted, None, answers), seconds


def _folder_name(name: str, recipe: Recipe, saved: Recipe, mode: Mode, shots: int, limit: int | None) -> str:
    """`name` alone is kept for the run's own recipe; what was overridden stands in metrics.json."""
    changed = [key for key in differences(saved, recipe) if not key.startswith("evaluation.")]
    parts = [f"{name}@{slug(recipe.data.eval)}" if changed else name]
    parts += ["free"] * (mode == "free") + [f"shots{shots}"] * (shots > 0) + [f"limit{limit}"] * (limit is not None)
    return "-".join(parts)


def _write(folder: Path, examples: list[Example], predictions: Predictions, metrics: dict[str, Any]) -> None:
    title = f"{metrics['model']}: {metrics['accuracy']:.1%} of {metrics['n']:,} rows"
    with atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        write_json(partial / "metrics.json", metrics)
        with (partial / "predictions.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for line in _prediction_lines(examples, predictions):
                file.write(line + "\n")
        invalid = list(metrics["invalid_by_label"].values()) if metrics["mode"] == "free" else None
        picture = partial / "confusion_matrix.png"
        plot_confusion_matrix(metrics["confusion_matrix"], metrics["labels"], title, picture, invalid=invalid)


def _prediction_lines(examples: list[Example], predictions: Predictions) -> Iterator[str]:
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
