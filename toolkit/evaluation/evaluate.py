"""One evaluation: a run's model on labelled rows, and the files that say how well it did."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.data.checks import Overlap, Splits, fingerprint, load_examples, load_splits
from toolkit.data.few_shot import draw_shots, refuse_shots
from toolkit.data.sources import describe, parse_data, slug
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings
from toolkit.evaluation.calibration import Calibration, calibrate, calibration_rows, label_indices
from toolkit.evaluation.decode import Decoded, decode_constrained, decode_freely
from toolkit.evaluation.evaluation_files import write_evaluation
from toolkit.evaluation.invalid import invalid_figures
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.report_data import gather
from toolkit.evaluation.run_results import Evaluation, base_zero_shot
from toolkit.evaluation.terminal import terminal_report
from toolkit.files import file_sha256
from toolkit.pairs import row_encoder
from toolkit.prompts import load_tokenizer
from toolkit.recipe import Recipe, Source
from toolkit.recipe_file import differences, load_recipe
from toolkit.run_folder import RunFolder
from toolkit.task import Example

Mode = Literal["constrained", "free"]
_LONGEST_SLUG = 120


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
    """Decode, measure, and write metrics.json, predictions.jsonl and their pictures.

    Args:
        run: a finished run.
        recipe: its recipe, with whatever the caller overrides.
        model: adapter, base, merged, or the path of a GGUF.
        data: other rows than the recipe's evaluation rows, see `parse_data`.
        limit: the first N rows only; a look, for which no temperature is fitted.
        mode: constrained to the labels, where a temperature is fitted on the rows that training held back; or free.
        shots: training rows that stand solved before each question, see `draw_shots`; for the base model alone.

    Returns:
        The folder of the files.

    Raises:
        ToolkitError: the model, the rows or the two together cannot be used.
    """
    name = run.model_label(model, recipe.model.kind)
    refuse_shots(model, shots)
    if not model.endswith(".gguf"):
        import toolkit.model.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
    saved = load_recipe(run.recipe)
    recipe = _with_rows(recipe, data, limit)
    splits = _load(recipe, saved, shots, is_foreign=data is not None)
    examples = splits.eval
    shown = draw_shots(splits.train, examples, recipe.task.labels, shots, recipe.seed)
    encoder = row_encoder(load_tokenizer(run.adapter), recipe, shown)
    measured = _what_was_measured(model, recipe, saved, examples, mode, shots) | {"model": name}
    folder = run.eval / _folder_name(name, recipe.data.eval, measured["overrides"], mode, shots)
    earlier = gather(run, besides=folder).evaluations  # damaged files are named before hours of scoring
    held_back, warnings = ([], []) if limit or mode == "free" else calibration_rows(run, splits)
    baselines = _baselines(splits, recipe, earlier, name)
    settings = (model, run, recipe, encoder, examples)
    decoded = decode_freely(*settings) if mode == "free" else decode_constrained(*settings, held_back)
    metrics = measured | _figures(decoded, examples, held_back, baselines, warnings, recipe.seed)
    write_evaluation(folder, examples, decoded.predictions, metrics)
    print(terminal_report(examples, decoded.predictions, metrics))
    return folder


def _figures(
    decoded: Decoded,
    examples: list[Example],
    held_back: list[Example],
    baselines: dict[str, float],
    warnings: list[str],
    seed: int,
) -> dict[str, Any]:
    """What metrics.json says of the answers; `warnings` are those that were known before."""
    predictions = decoded.predictions
    calibration, untold = _calibrate(held_back, decoded.held_back, examples, predictions)
    answered = answer_warnings(predictions.predicted, examples, baselines)
    return {
        **compute_metrics(examples, predictions, seed=seed),
        **invalid_figures(examples, predictions),
        "calibration": calibration.record() if calibration else None,
        "baselines": baselines,
        "warnings": [*data_warnings(baselines, examples), *answered, *warnings, *untold],
        "shortened_rows": decoded.shortened,
        "speed": {"seconds": round(decoded.seconds, 3), "examples_per_second": len(examples) / decoded.seconds},
    }


def _what_was_measured(
    model: str, recipe: Recipe, saved: Recipe, examples: list[Example], mode: Mode, shots: int
) -> dict[str, Any]:
    return {
        "n": len(examples),
        "labels": list(recipe.task.labels),
        "mode": mode,
        "shots": shots,
        "data": {"source": describe(recipe.data.eval), "fingerprint": fingerprint(examples)},
        "overrides": differences(saved, recipe),
        "model_sha256": file_sha256(Path(model)) if model.endswith(".gguf") else None,
    }


def _with_rows(recipe: Recipe, data: str | None, limit: int | None) -> Recipe:
    source = parse_data(data) if data else recipe.data.eval
    if limit:
        source = source.model_copy(update={"limit": limit})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": source})})


def _load(recipe: Recipe, saved: Recipe, shots: int, *, is_foreign: bool) -> Splits:
    """The rows to score; with the training rows, where they are needed, and then leaks are refused."""
    if recipe.evaluation.baselines or recipe.data.calibration_share or shots:
        return load_splits(recipe, is_foreign=is_foreign, trained=saved)
    return Splits([], load_examples(recipe, recipe.data.eval, is_foreign=is_foreign), Overlap(0, 0, 0))


def _baselines(splits: Splits, recipe: Recipe, earlier: list[Evaluation], name: str) -> dict[str, float]:
    if not recipe.evaluation.baselines:
        return {}
    found = baseline_accuracies(splits.train, splits.eval, recipe.task.labels)
    return found if name == "base" else found | base_zero_shot(earlier, fingerprint(splits.eval))


def _calibrate(
    held_back: list[Example], log_likelihoods: np.ndarray | None, examples: list[Example], predictions: Predictions
) -> tuple[Calibration | None, list[str]]:
    """The calibration; none, and a sentence of warning, where held-back rows do not tell a temperature."""
    if log_likelihoods is None or predictions.log_likelihoods is None:
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


def _folder_name(name: str, source: Source, overrides: dict[str, Any], mode: Mode, shots: int) -> str:
    """`name` alone is the run's own recipe, rows and prompt; two different evaluations never share a folder."""
    changed = {key: value for key, value in overrides.items() if not key.startswith("evaluation.")}
    if not changed and mode == "constrained" and not shots:
        return name
    limit = source.limit if "data.eval.limit" in changed else None
    others = {key: value for key, value in changed.items() if not key.startswith("data.eval.")}
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6]
    rows = slug(source)
    if len(rows.encode()) > _LONGEST_SLUG:  # a file's name has 255 bytes
        rows = f"{rows[: _LONGEST_SLUG // 4]}-{hashlib.sha256(rows.encode()).hexdigest()[:8]}"
    parts = [f"{name}@{rows}"] + ["free"] * (mode == "free") + [f"shots{shots}"] * (shots > 0)
    return "-".join(parts + [f"set{digest}"] * bool(others) + [f"limit{limit}"] * (limit is not None))
