"""Evaluation of a run's model on labeled rows."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.data.example import Example
from toolkit.data.examples import fingerprint, with_task_labels
from toolkit.data.few_shot import draw_shots
from toolkit.data.sources import EMBEDDED, describe, parse_data
from toolkit.data.splits import Overlap, Splits, load_evaluation_rows, load_existing_dev_rows, load_splits
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings, dev_row_warnings
from toolkit.evaluation.calibration_set import CalibrationSet, select_calibration_set
from toolkit.evaluation.cross_fitting import cross_fit_evaluation
from toolkit.evaluation.evaluation import Evaluation, base_zero_shot, load_evaluations
from toolkit.evaluation.evaluation_files import write_evaluation
from toolkit.evaluation.evaluation_names import distinct_folder, evaluation_name
from toolkit.evaluation.invalid_answers import invalid_answer_metrics
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.evaluation.metrics import Predictions, absent_label_warnings, compute_metrics
from toolkit.evaluation.request import EvaluationRequest, Mode
from toolkit.inference.classifier import Classifier
from toolkit.inference.model_seal import UNKNOWN_ORIGIN, verify_model
from toolkit.prompts.messages import match_verbalizer
from toolkit.recipe.data_paths import data_suffix
from toolkit.recipe.data_section import Source
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_paths import check_name_length, check_no_links
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_sha256
from toolkit.utils.storage import folder_lock

logger = logging.getLogger(__name__)


def evaluate(run: TrainedRun, request: EvaluationRequest) -> Evaluation:
    """Evaluate a model of a run and write metrics.json, predictions.jsonl and plots.

    Args:
        run: A finished run, with the recipe to use.
        request: The model, the rows and the decoding mode.

    Raises:
        ToolkitError: If the model or the rows cannot be used, or are incompatible.
    """
    request.check(run)
    if not request.model.gguf:
        import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers and datasets
    run = run.for_one_result()
    doubt = verify_model(run, request.model)
    adapter_sha256 = run.adapter_sha256
    name = request.model.evaluation_name(run.folder)
    run = run.with_recipe(_with_evaluation_data(run, request))
    splits = _load_splits(run, request)
    merged = MergedLabels.of(run.recipe)
    examples = merged.rename(splits.eval)
    description = _describe_request(run, request, splits.eval) | {"model": name}
    folder = run.folder.eval / evaluation_name(name, run.recipe.data.eval, description["overrides"], request)
    folder = distinct_folder(folder, description)
    check_no_links([folder])
    check_name_length(folder, f"The name of {request.model}", hint="Give the file a shorter name.")
    # Read before the rows are scored: a damaged file should not be reported after hours of work.
    earlier_evaluations = load_evaluations(run, exclude=folder)
    # A limited evaluation is a quick look, and free generation has no log-likelihoods to calibrate.
    skips_calibration = request.limit or request.mode == "free"
    calibration_set, warnings = (CalibrationSet(), []) if skips_calibration else select_calibration_set(run, splits)
    baselines = _measure_baselines(splits, run.recipe, earlier_evaluations, name)
    shots = draw_shots(splits.train, splits.eval, run.recipe.task.labels, request.shots, run.recipe.seed)
    with Classifier(run, request.model, shots=shots) as classifier:
        scored_rows = _predict(classifier, splits.eval, calibration_set.rows, request.mode)
    warnings += [*_changed_rows(run, splits), *(dev_row_warnings(run.saved_recipe, splits) if name != "base" else [])]
    if doubt:
        warnings.append(f"The GGUF file {doubt}")
    if run.accepted:
        warnings.append("Files of the model had changed, which was accepted: see accepted_changes in metrics.json.")
    cross_fitted, cross_fitting_warnings = _cross_fit(run, request, examples, scored_rows.predictions)
    warnings += cross_fitting_warnings
    metrics = description | _answer_metrics(
        scored_rows, examples, calibration_set, baselines, warnings, run.recipe.seed
    )
    metrics |= {"cross_fitted_calibration": cross_fitted}
    if run.accepted:
        metrics |= {"accepted_changes": list(run.accepted)}
    # Scoring takes hours, in which another process can have replaced the run.
    with folder_lock(run.path):
        run.verify_unreplaced(adapter_sha256)
        # A GGUF file of unknown origin is not known to have this adapter.
        origin = None if doubt == UNKNOWN_ORIGIN else adapter_sha256
        metrics = write_evaluation(folder, examples, scored_rows.predictions, metrics, origin)
    return Evaluation(folder.name, folder, metrics)


@dataclass(frozen=True)
class _ScoredRows:
    """The predictions of a model and how they were made.

    Args:
        predictions: The predictions for the evaluation rows.
        seconds: The time that scoring took, without loading the model.
        shortened: The number of rows whose text was truncated.
        calibration_scores: [rows, labels], log-likelihoods of the calibration set; None if it is empty or not scored.
    """

    predictions: Predictions
    seconds: float
    shortened: int
    calibration_scores: np.ndarray | None = None


def _predict(
    classifier: Classifier, examples: list[Example], calibration_set: list[Example], mode: Mode
) -> _ScoredRows:
    encoded_rows, encoded_calibration_set = (
        classifier.row_tokenizer.encode(with_task_labels(classifier.run.recipe, examples)),
        classifier.row_tokenizer.encode(calibration_set),
    )
    shortened = sum(row.shortened for row in encoded_rows)
    classifier.load(mode)  # outside the measured time: loading says nothing about the speed of scoring
    merged = MergedLabels.of(classifier.run.recipe)
    start = time.monotonic()
    if mode == "free":
        answers = classifier.generate_answers(encoded_rows)
        seconds = time.monotonic() - start
        verbalizers = classifier.run.recipe.task.verbalizers
        decoded = [match_verbalizer(text, verbalizers) for text in answers]
        predictions = Predictions(merged.names, merged.predict(decoded, None), None, answers, merged)
        return _ScoredRows(predictions, seconds, shortened)
    scores = classifier.score_labels(encoded_rows)
    seconds = time.monotonic() - start
    calibration_scores = (
        classifier.score_labels(encoded_calibration_set).log_likelihoods if encoded_calibration_set else None
    )
    predicted = merged.predict(scores.decoded, scores.log_likelihoods)
    predictions = Predictions(merged.names, predicted, scores.log_likelihoods, merged=merged)
    return _ScoredRows(predictions, seconds, shortened, calibration_scores)


def _answer_metrics(
    scored_rows: _ScoredRows,
    examples: list[Example],
    calibration_set: CalibrationSet,
    baselines: dict[str, float],
    warnings: list[str],
    seed: int,
) -> dict[str, Any]:
    """Return the fields of metrics.json that depend on the answers; `warnings` are those from before scoring."""
    predictions = scored_rows.predictions
    calibration, calibration_warnings = calibration_set.calibrate(scored_rows.calibration_scores, examples, predictions)
    prediction_warnings = answer_warnings(predictions.predicted, examples, baselines)
    return {
        **compute_metrics(examples, predictions, seed=seed),
        **invalid_answer_metrics(examples, predictions),
        "calibration": calibration.record() | {"source": calibration_set.source} if calibration else None,
        "baselines": baselines,
        "warnings": [
            *absent_label_warnings([example.label for example in examples], predictions.labels),
            *data_warnings(baselines, examples),
            *prediction_warnings,
            *warnings,
            *calibration_warnings,
        ],
        "shortened_rows": scored_rows.shortened,
        "speed": {"seconds": round(scored_rows.seconds, 3), "examples_per_second": len(examples) / scored_rows.seconds},
    }


def _cross_fit(
    run: TrainedRun, request: EvaluationRequest, examples: list[Example], predictions: Predictions
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the cross-fitted calibration for metrics.json, and a warning for it if there is none."""
    result, warnings = cross_fit_evaluation(examples, predictions, seed=run.recipe.seed)
    if request.limit and warnings:
        # A quick look often has too few rows. The run's report, which lists all warnings, should not be about that.
        logger.warning("WARNING: %s", warnings[0])
        warnings = []
    return (result.record() if result else None), warnings


def _describe_request(run: TrainedRun, request: EvaluationRequest, examples: list[Example]) -> dict[str, Any]:
    """Return the fields of metrics.json that describe the request: rows, labels, mode and overrides."""
    merged = MergedLabels.of(run.recipe)
    return {
        "n": len(examples),
        "inputs": list(run.recipe.task.inputs),
        "labels": list(merged.names),
        **merged.record(),
        "mode": request.mode,
        "shots": request.shots,
        "data": {"source": describe(run.recipe.data.eval), "fingerprint": fingerprint(examples)},
        # That the run's own share does not apply to other rows is not a change of the recipe.
        "overrides": {
            key: value for key, value in run.overridden.items() if request.data is None or key != "data.eval_share"
        },
        # A GGUF file can be replaced by another one with the same name.
        "model_sha256": file_sha256(request.model.gguf) if request.model.gguf else None,
    }


def _changed_rows(run: TrainedRun, splits: Splits) -> list[str]:
    """Return a warning for each part of the run's own rows that is not what it was during training."""
    if any(key.startswith("data.") for key in run.overridden):
        return []
    parts = {"training": ("train", splits.train), "dev": ("dev", splits.dev), "evaluation": ("eval", splits.eval)}
    recorded = {
        name: (run.record.get("data", {}).get(key) or {}).get("fingerprint") for name, (key, _) in parts.items()
    }
    return [
        f"The {name} rows have changed since training."
        for name, (_, rows) in parts.items()
        if rows and recorded[name] not in (None, fingerprint(rows))
    ]


def _with_evaluation_data(run: TrainedRun, request: EvaluationRequest) -> Recipe:
    data = run.recipe.data
    changes: dict[str, Any] = {"eval": data.eval}
    if request.data is not None:
        # The rows of another file are all evaluated. The training rows remain those without the run's own share.
        changes = {"eval": _read_like_own_rows(parse_data(request.data), run), "eval_share": 0.0}
    if request.limit:
        changes["eval"] = changes["eval"].model_copy(update={"limit": request.limit})
    return run.recipe.model_copy(update={"data": data.model_copy(update=changes)})


def _read_like_own_rows(source: Source, run: TrainedRun) -> Source:
    """Return a source with the columns and the label map of data.eval, and its format if the type of file is the same.

    Overrides of data.eval.format are used for any file.
    """
    own = run.recipe.data.eval
    if source.path == EMBEDDED:
        return source
    changes: dict[str, Any] = {"columns": own.columns, "label_map": own.label_map}
    own_path = own.path if isinstance(own.path, str) else own.path[0]
    if data_suffix(own_path) == data_suffix(str(source.path)) or any(
        key.startswith("data.eval.format") for key in run.overridden
    ):
        changes["format"] = own.format
    return source.model_copy(update=changes)


def _load_splits(run: TrainedRun, request: EvaluationRequest) -> Splits:
    """Load the rows to score, and the training rows only if something needs them.

    If both are loaded, evaluation rows that were trained on are an error unless data.allow_overlap is set.
    """
    recipe, is_external = run.recipe, request.data is not None
    if recipe.evaluation.baselines or recipe.data.calibration_share or request.shots or recipe.data.dev_share:
        return load_splits(recipe, is_external=is_external, trained_recipe=run.saved_recipe)
    # Without training rows there is nothing that the evaluation rows could overlap with.
    evaluation = load_evaluation_rows(recipe, is_external=is_external)
    return Splits([], evaluation, Overlap(), dev=load_existing_dev_rows(recipe).examples)


def _measure_baselines(
    splits: Splits, recipe: Recipe, earlier_evaluations: list[Evaluation], name: str
) -> dict[str, float]:
    if not recipe.evaluation.baselines:
        return {}
    merged = MergedLabels.of(recipe)
    baselines = baseline_accuracies(merged.rename(splits.train), merged.rename(splits.eval), merged.names)
    # The base model is not a baseline for itself.
    if name == "base":
        return baselines
    return baselines | base_zero_shot(
        earlier_evaluations, fingerprint(splits.eval), merged.record().get("merge_labels")
    )
