"""One evaluation: a run's model on labelled rows, and the files that say how well it did."""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint, load_examples
from toolkit.data.few_shot import draw_shots
from toolkit.data.sources import describe, parse_data, slug
from toolkit.data.splits import Overlap, Splits, load_splits
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings
from toolkit.evaluation.calibration import Calibration, calibrate, calibration_rows, label_indices
from toolkit.evaluation.evaluation import Evaluation, base_zero_shot, load_evaluations
from toolkit.evaluation.evaluation_files import write_evaluation
from toolkit.evaluation.invalid_answers import invalid_answer_metrics
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.evaluation.request import EvaluationRequest, Mode
from toolkit.inference.classifier import Classifier
from toolkit.prompts.messages import match_verbalizer
from toolkit.recipe.schema import Recipe, Source
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_sha256

_MAX_SLUG_BYTES = 120


def evaluate(run: TrainedRun, request: EvaluationRequest) -> Evaluation:
    """Decode, measure, and write metrics.json, predictions.jsonl and their pictures.

    Args:
        run: a finished run, with the recipe to use.
        request: what to measure.

    Raises:
        ToolkitError: the model, the rows or the two together cannot be used.
    """
    request.check(run)
    if not request.model.gguf:
        import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers and datasets
    name = request.model.label(run.folder)
    run = run.with_recipe(_with_evaluation_data(run.recipe, request.data, request.limit))
    splits = _load_splits(run, request)
    description = _describe_request(run, request, splits.eval) | {"model": name}
    folder = run.folder.eval / _folder_name(name, run.recipe.data.eval, description["overrides"], request)
    earlier_evaluations = load_evaluations(
        run.folder, exclude=folder
    )  # damaged files are named before hours of scoring
    skips_calibration = request.limit or request.mode == "free"
    calibration_set, warnings = ([], []) if skips_calibration else calibration_rows(run, splits)
    baselines = _measure_baselines(splits, run.recipe, earlier_evaluations, name)
    shots = draw_shots(splits.train, splits.eval, run.recipe.task.labels, request.shots, run.recipe.seed)
    with Classifier(run, request.model, shots=shots) as classifier:
        scored_rows = _predict(classifier, splits.eval, calibration_set, request.mode)
    metrics = description | _answer_metrics(
        scored_rows, splits.eval, calibration_set, baselines, warnings, run.recipe.seed
    )
    write_evaluation(folder, splits.eval, scored_rows.predictions, metrics)
    return Evaluation(folder.name, folder, metrics)


@dataclass(frozen=True)
class _ScoredRows:
    """A model's predictions, how long they took, and how many premises lost their end for them.

    `calibration_scores` are the label log-likelihoods of the rows held back from training, [rows, labels]; None where
    there are none.
    """

    predictions: Predictions
    seconds: float
    shortened: int
    calibration_scores: np.ndarray | None = None


def _predict(
    classifier: Classifier, examples: list[Example], calibration_set: list[Example], mode: Mode
) -> _ScoredRows:
    encoded_rows, encoded_calibration_set = (
        classifier.encoder.encode(examples),
        classifier.encoder.encode(calibration_set),
    )
    shortened = sum(row.shortened for row in encoded_rows)
    classifier.load(mode)
    start = time.monotonic()
    if mode == "free":
        answers = classifier.free_answers(encoded_rows)
        seconds = time.monotonic() - start
        verbalizers = classifier.run.recipe.task.verbalizers
        predicted = [match_verbalizer(text, verbalizers) for text in answers]
        return _ScoredRows(Predictions(classifier.classes_, predicted, None, answers), seconds, shortened)
    scores = classifier.label_scores(encoded_rows)
    seconds = time.monotonic() - start
    calibration_scores = (
        classifier.label_scores(encoded_calibration_set).log_likelihoods if encoded_calibration_set else None
    )
    predictions = Predictions(scores.labels, list(scores.decoded), scores.log_likelihoods)
    return _ScoredRows(predictions, seconds, shortened, calibration_scores)


def _answer_metrics(
    scored_rows: _ScoredRows,
    examples: list[Example],
    calibration_set: list[Example],
    baselines: dict[str, float],
    warnings: list[str],
    seed: int,
) -> dict[str, Any]:
    """What metrics.json says of the answers; `warnings` are those that were known before."""
    predictions = scored_rows.predictions
    calibration, calibration_warnings = _calibrate(
        calibration_set, scored_rows.calibration_scores, examples, predictions
    )
    prediction_warnings = answer_warnings(predictions.predicted, examples, baselines)
    return {
        **compute_metrics(examples, predictions, seed=seed),
        **invalid_answer_metrics(examples, predictions),
        "calibration": calibration.record() if calibration else None,
        "baselines": baselines,
        "warnings": [*data_warnings(baselines, examples), *prediction_warnings, *warnings, *calibration_warnings],
        "shortened_rows": scored_rows.shortened,
        "speed": {"seconds": round(scored_rows.seconds, 3), "examples_per_second": len(examples) / scored_rows.seconds},
    }


def _describe_request(run: TrainedRun, request: EvaluationRequest, examples: list[Example]) -> dict[str, Any]:
    """Return what metrics.json says of the question: rows, labels, mode and overrides."""
    return {
        "n": len(examples),
        "labels": list(run.recipe.task.labels),
        "mode": request.mode,
        "shots": request.shots,
        "data": {"source": describe(run.recipe.data.eval), "fingerprint": fingerprint(examples)},
        "overrides": run.overridden,
        "model_sha256": file_sha256(request.model.gguf) if request.model.gguf else None,
    }


def _with_evaluation_data(recipe: Recipe, data: str | None, limit: int | None) -> Recipe:
    source = parse_data(data) if data else recipe.data.eval
    if limit:
        source = source.model_copy(update={"limit": limit})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": source})})


def _load_splits(run: TrainedRun, request: EvaluationRequest) -> Splits:
    """The rows to score; with the training rows, where they are needed, and then leaks are refused."""
    recipe, is_external = run.recipe, request.data is not None
    if recipe.evaluation.baselines or recipe.data.calibration_share or request.shots:
        return load_splits(recipe, is_external=is_external, trained_recipe=run.saved_recipe)
    return Splits([], load_examples(recipe, recipe.data.eval, is_external=is_external), Overlap(0, 0, 0))


def _measure_baselines(
    splits: Splits, recipe: Recipe, earlier_evaluations: list[Evaluation], name: str
) -> dict[str, float]:
    if not recipe.evaluation.baselines:
        return {}
    baselines = baseline_accuracies(splits.train, splits.eval, recipe.task.labels)
    return baselines if name == "base" else baselines | base_zero_shot(earlier_evaluations, fingerprint(splits.eval))


def _calibrate(
    calibration_set: list[Example],
    log_likelihoods: np.ndarray | None,
    examples: list[Example],
    predictions: Predictions,
) -> tuple[Calibration | None, list[str]]:
    """The calibration; none, and a sentence of warning, where held-back rows do not tell a temperature."""
    if log_likelihoods is None or predictions.log_likelihoods is None:
        return None, []
    labels = predictions.labels
    calibration = calibrate(
        (log_likelihoods, label_indices([row.label for row in calibration_set], labels)),
        (predictions.log_likelihoods, label_indices([row.label for row in examples], labels)),
    )
    if not calibration.is_at_lower_bound:
        return calibration, []
    return None, [
        f"No temperature was fitted: all {calibration.rows} rows held back are right, which does not say how sure is "
        "too sure. Raise data.calibration_share."
    ]


def _folder_name(name: str, source: Source, overrides: dict[str, Any], request: EvaluationRequest) -> str:
    """`name` alone is the run's own recipe, rows and prompt; two different evaluations never share a folder."""
    changed = {key: value for key, value in overrides.items() if not key.startswith("evaluation.")}
    mode, shots = request.mode, request.shots
    if not changed and mode == "constrained" and not shots:
        return name
    limit = source.limit if "data.eval.limit" in changed else None
    other_overrides = {key: value for key, value in changed.items() if not key.startswith("data.eval.")}
    digest = hashlib.sha256(json.dumps(other_overrides, sort_keys=True).encode()).hexdigest()[:6]
    data_name = slug(source)
    if len(data_name.encode()) > _MAX_SLUG_BYTES:  # a file's name has 255 bytes
        data_name = f"{data_name[: _MAX_SLUG_BYTES // 4]}-{hashlib.sha256(data_name.encode()).hexdigest()[:8]}"
    name_parts = [f"{name}@{data_name}"] + ["free"] * (mode == "free") + [f"shots{shots}"] * (shots > 0)
    return "-".join(name_parts + [f"set{digest}"] * bool(other_overrides) + [f"limit{limit}"] * (limit is not None))
