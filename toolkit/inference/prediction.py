"""Prediction for new pairs: a single pair, or a file of any size with scores that survive an interruption."""

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import toolkit
from toolkit.data.examples import list_names, row_texts, similar_name_hint
from toolkit.data.prediction_writers import Prediction, added_columns, check_formats, read_columns, write_predictions
from toolkit.data.sources import Row, stream_file
from toolkit.errors import DataError, RunError
from toolkit.inference.checks import warn_of_truncation
from toolkit.inference.classifier import Classifier
from toolkit.inference.resumable_output import CHUNK_ROWS, Journal, open_journal
from toolkit.prompts.prompt_tokenizer import EncodedRow
from toolkit.prompts.sentence_pairs import EncodedPair
from toolkit.recipe.loading import data_suffix
from toolkit.recipe.schema import Recipe
from toolkit.runs.evaluation_seal import verify_evaluation
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.seal import base_files, find_accepted_changes, model_files
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import atomic_path, file_fingerprint, file_sha256
from toolkit.utils.progress import progress_bar, show_progress

_SHOWN_ROWS = 3
"""The invalid rows that a message describes. The others are only counted."""


def predict_pair(classifier: Classifier, premise: str, hypothesis: str) -> Prediction:
    """Predict the label of one pair. If its premise was truncated, a warning is logged.

    Raises:
        DataError: If a text is empty or too long.
    """
    names = classifier.run.recipe.data.columns
    try:
        row = _encode(classifier, {names.premise: premise, names.hypothesis: hypothesis})
    except DataError as error:
        raise DataError(f"The pair cannot be scored: {error}.") from error
    warn_of_truncation([row], classifier.run.recipe.model.max_seq_length)
    with show_progress(False):
        scores = classifier.score_labels([row])
    return Prediction(scores.decoded[0], classifier.to_probabilities(scores.log_likelihoods)[0].tolist())


def predict_file(classifier: Classifier, source: Path, target: Path) -> int:
    """Predict the label of every row of a file, and write the rows with all their columns in the same format.

    All rows are checked before the first one is scored. Scores are collected in `target`.partial, and after an
    interruption the same call resumes from there. `target` is written at the end, in one step.

    Args:
        classifier: The classifier.
        source: A .jsonl, .csv, .tsv or .parquet file with the columns that the recipe names.
        target: The output file, of the same format.

    Returns:
        The number of premises that were truncated.

    Raises:
        ToolkitError: If rows cannot be scored or a file cannot be used. `target` is not changed.
    """
    check_formats(source, target)
    fingerprint = file_fingerprint([source])
    rows, shortened = _check_rows(classifier, source)
    origin = {
        "input": fingerprint,
        "model": file_fingerprint(_model_files(classifier)),
        "recipe": _recipe_fingerprint(classifier.run.recipe),
        "toolkit version": toolkit.__version__,
        "rows": rows,
    }
    # The journal resumes only if all of this is unchanged: otherwise old and new scores would not belong together.
    with open_journal(target.with_name(f"{target.name}.partial"), origin) as journal:
        _score_rows(classifier, source, rows, journal)
        if file_fingerprint([source]) != fingerprint:
            raise DataError(f"{source} changed while it was being read.", hint="Try again when the file is complete.")
        with atomic_path(target) as partial:
            write_predictions(source, partial, _predictions(classifier, journal), classifier.classes_)
        journal.path.unlink()
    return shortened


def _check_rows(classifier: Classifier, source: Path) -> tuple[int, int]:
    """Return the number of rows and of shortened premises, or raise an error that names the invalid rows."""
    recipe = classifier.run.recipe
    _check_columns(recipe, source)
    reserved = added_columns(data_suffix(source), classifier.classes_)
    number = shortened = 0
    problems: list[str] = []
    for number, row in enumerate(progress_bar(stream_file(source), desc="checking", unit="row"), 1):
        try:
            if conflicts := [column for column in reserved if column in row]:
                raise DataError(f"it already has a column {conflicts[0]!r}")
            shortened += _encode(classifier, row).shortened
        except DataError as error:
            problems.append(f"row {number}: {error}" if len(problems) < _SHOWN_ROWS else "")
    if problems:
        total = f" ({len(problems)} rows cannot be scored)" if len(problems) > 1 else ""
        raise DataError(f"{source}, {'; '.join(problems[:_SHOWN_ROWS])}{total}.", hint="Fix or remove these rows.")
    return number, shortened


def _check_columns(recipe: Recipe, source: Path) -> None:
    columns = read_columns(source)
    for column in (recipe.data.columns.premise, recipe.data.columns.hypothesis):
        if column not in columns:
            raise DataError(
                f"{source} has no column {column!r}; its columns are {list_names(map(repr, columns))}.",
                hint=similar_name_hint(columns, column)
                or 'Set the column names, e.g. overrides={"data.columns.premise": "sentence1"}.',
            )


def _encode(classifier: Classifier, row: Row) -> EncodedRow | EncodedPair:
    return classifier.row_tokenizer.encode_unlabeled(*row_texts(classifier.run.recipe, row))


def _model_files(classifier: Classifier) -> list[Path]:
    """Return the files that determine the model's answers, except the recipe."""
    run, model = classifier.run, classifier.model
    adapter = run.folder.adapter
    # The tokenizer of every model is read from the adapter's folder.
    names = [name for name in model_files(adapter) if model.name == "adapter" or not name.startswith("adapter_")]
    if model.gguf:
        weights = [model.gguf]
    elif model.name == "merged":
        weights = [run.folder.merged / name for name in model_files(run.folder.merged)]
    else:
        from toolkit.models.model_folder import find_base

        base = find_base(run)
        weights = [base / name for name in base_files(base)]
    return [*weights, *(adapter / name for name in names)]


def _recipe_fingerprint(recipe: Recipe) -> str:
    # Only the parts that affect scores, so that changing, say, the training section does not prevent resuming. The
    # batch size is one of them, because it changes the rounding.
    columns = [recipe.data.columns.premise, recipe.data.columns.hypothesis]
    settings = [recipe.task.model_dump(), recipe.model.model_dump(), recipe.evaluation.batch_tokens, columns]
    return hashlib.sha256(json.dumps(settings, ensure_ascii=False).encode()).hexdigest()


def _score_rows(classifier: Classifier, source: Path, rows: int, journal: Journal) -> None:
    """Score the rows that are not in the journal yet."""
    if journal.done == rows:
        return
    with progress_bar(total=rows, initial=journal.done, desc="predicting", unit="row") as bar, show_progress(False):
        remaining = islice(stream_file(source), journal.done, None)
        try:
            while chunk := list(islice(remaining, CHUNK_ROWS)):
                encoded = [_encode(classifier, row) for row in chunk]
                scores = classifier.score_labels(encoded, first_row=journal.done + 1)
                journal.append(scores.decoded, scores.log_likelihoods)
                bar.update(len(chunk))
        except KeyboardInterrupt as interrupt:
            bar.close()
            progress = f"{journal.done:,} of {rows:,} rows are saved in {journal.path}"
            raise KeyboardInterrupt(f"{progress}. Run the same command again to resume.") from interrupt


def _predictions(classifier: Classifier, journal: Journal) -> Iterator[Prediction]:
    for labels, log_likelihoods in journal.chunks():
        yield from map(Prediction, labels, classifier.to_probabilities(log_likelihoods).tolist())


def load_temperature(run: TrainedRun, model: ModelRef) -> float:
    """Return the temperature that was fitted when `model` was evaluated on the recipe's rows (Guo et al. 2017).

    Raises:
        RunError: If there is no such evaluation, it has no temperature, or it used another prompt or another file.
    """
    changed_keys = [key for key in run.overridden if key.startswith(("task.", "model."))]
    if changed_keys:
        raise RunError(
            "calibrated=True uses a temperature that was fitted with the run's own recipe, "
            f"but {changed_keys[0]} is overridden.",
            hint="Leave out calibrated=True, or the overrides.",
        )
    path = run.folder.eval / model.evaluation_name(run.folder) / "metrics.json"
    metrics = read_json_object(path) if path.is_file() else {}
    if metrics:
        verify_evaluation(run, path.parent, metrics)
        run.refuse_changes(find_accepted_changes(path, metrics), hint="Evaluate again.")
    calibration = metrics.get("calibration") or {}
    # A damaged calibration must not look like a missing one, whose message would advise an evaluation.
    temperature = calibration.get("temperature") if isinstance(calibration, dict) else "none"
    if temperature is None:
        raise RunError(
            f"calibrated=True needs the temperature of {model}, but {path} does not have one.",
            hint="It is fitted on rows held out from training. Train with data.calibration_share, and evaluate with "
            f"toolkit.open_run({str(run.path)!r}).evaluate({str(model)!r})",
        )
    if model.gguf and metrics.get("model_sha256") != file_sha256(model.gguf):
        raise RunError(
            f"calibrated=True uses the temperature in {path}, but it was fitted for a different file, not {model}.",
            hint=f"Evaluate this file: toolkit.open_run({str(run.path)!r}).evaluate({str(model)!r})",
        )
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise RunError(f"{path} is damaged: its temperature is not a number above 0.", hint="Evaluate again.")
    return float(temperature)
