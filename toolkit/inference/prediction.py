"""Prediction for new rows: a single row, or a file of any size with scores that survive an interruption."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import toolkit
from toolkit.data.examples import row_inputs
from toolkit.data.prediction_input import open_input
from toolkit.data.prediction_writers import (
    Prediction,
    added_columns,
    check_encoding,
    check_formats,
    write_predictions,
)
from toolkit.errors import DataError, RunError
from toolkit.inference.checks import warn_of_truncation
from toolkit.inference.classifier import Classifier
from toolkit.inference.encoded_input import EncodedInput
from toolkit.inference.resumable_output import Journal, open_journal
from toolkit.recipe.data_paths import split_suffixes
from toolkit.recipe.inputs import RowColumns, name_rows
from toolkit.recipe.schema import Recipe
from toolkit.runs.evaluation_seal import verify_evaluation
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import read_json_object
from toolkit.runs.seal import base_files, find_accepted_changes, model_files
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import atomic_path, file_fingerprint, file_sha256
from toolkit.utils.progress import progress_bar, show_progress

logger = logging.getLogger(__name__)


def predict_row(classifier: Classifier, inputs: Mapping[str, str]) -> Prediction:
    """Predict the label of one row. If its text was truncated, a warning is logged.

    Args:
        classifier: The classifier.
        inputs: The text of each input of the recipe.

    Raises:
        DataError: If an input is missing, or a text is empty or too long.
    """
    recipe = classifier.run.recipe
    columns = RowColumns({name: name for name in recipe.task.inputs}, "label", None)
    try:
        row = classifier.row_tokenizer.encode_unlabeled(row_inputs(recipe, columns, inputs))
    except DataError as error:
        raise DataError(f"The {name_rows(recipe.task.inputs).removesuffix('s')} cannot be scored: {error}.") from error
    warn_of_truncation([row], recipe.model.max_seq_length, recipe.task.truncated_input)
    with show_progress(False):
        scores = classifier.score_labels([row])
    return Prediction(scores.decoded[0], classifier.to_probabilities(scores.log_likelihoods)[0].tolist())


def predict_file(classifier: Classifier, source: Path, target: Path) -> int:
    """Predict the label of every row of a file, and write the rows with all their columns in the same format.

    The columns are those of data.eval, and so are the parts of the format that are not detected. All rows are checked
    before the first one is scored. Scores are collected in `target`.partial, and after an interruption the same call
    resumes from there. `target` is written at the end, in one step.

    Args:
        classifier: The classifier.
        source: A data file with the columns that the recipe names, or a .txt file with one text per line.
        target: The output file, of the same format; it can be compressed with gzip if its name ends in .gz.

    Returns:
        The number of rows that were truncated.

    Raises:
        ToolkitError: If rows cannot be scored or a file cannot be used. `target` is not changed.
    """
    check_formats(source, target)
    recipe = classifier.run.recipe
    columns = recipe.columns_of(recipe.data.eval)
    fingerprint = file_fingerprint([source])
    input_file = open_input(source, recipe.data.eval.format, list(columns.inputs.values()))
    check_encoding(input_file, classifier.classes_)
    encoded_input = EncodedInput(classifier, columns, input_file)
    rows, shortened = encoded_input.check()
    added = added_columns(input_file.kind, classifier.classes_)
    if input_file.is_delimited and not input_file.format.header and not input_file.is_lines:
        logger.info("output      %s has no header, like its input; columns added: %s", target, ", ".join(added))
    origin = {
        "input": fingerprint,
        "model": file_fingerprint(_model_files(classifier)),
        "recipe": _recipe_fingerprint(recipe, columns),
        "toolkit version": toolkit.__version__,
        "rows": rows,
    }
    # The journal resumes only if all of this is unchanged: otherwise old and new scores would not belong together.
    partial_file = target.with_name(f"{target.name}.partial")
    with open_journal(partial_file, origin, classifier.chunk_rows) as journal:
        _score_rows(classifier, encoded_input, rows, journal)
        if file_fingerprint([source]) != fingerprint:
            raise DataError(f"{source} changed while it was being read.", hint="Try again when the file is complete.")
        with atomic_path(target) as partial:
            predictions, compress = _predictions(classifier, journal), split_suffixes(target)[1] == ".gz"
            write_predictions(input_file, partial, predictions, classifier.classes_, compress)
        journal.path.unlink()
    return shortened


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
    elif run.recipe.lora is None:  # the adapter's folder has the complete model
        weights = []
    else:
        from toolkit.models.model_folder import find_base

        base = find_base(run)
        weights = [base / name for name in base_files(base)]
    return [*weights, *(adapter / name for name in names)]


def _recipe_fingerprint(recipe: Recipe, columns: RowColumns) -> str:
    # Only the parts that affect scores, so that changing, say, the training section does not prevent resuming. The
    # batch size is one of them, because it changes the rounding.
    settings = [
        recipe.task.model_dump(),
        recipe.model.model_dump(),
        recipe.evaluation.batch_tokens,
        list(columns.inputs.values()),
        recipe.data.eval.format.model_dump(),
    ]
    return hashlib.sha256(json.dumps(settings, ensure_ascii=False).encode()).hexdigest()


def _score_rows(classifier: Classifier, rows: EncodedInput, total: int, journal: Journal) -> None:
    """Score the rows that are not in the journal yet."""
    if journal.done == total:
        return
    chunks = rows.chunks(journal.done)
    # One thread reads and tokenizes a chunk while the model scores the chunk before it. It is never further ahead, so
    # memory does not grow with the number of rows.
    with (
        progress_bar(total=total, initial=journal.done, desc="predicting", unit="row") as bar,
        show_progress(False),
        ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as thread,
    ):
        try:
            upcoming = thread.submit(next, chunks, None)
            while chunk := upcoming.result():
                upcoming = thread.submit(next, chunks, None)
                scores = classifier.score_labels(chunk, first_row=journal.done + 1)
                journal.append(scores.decoded, scores.log_likelihoods)
                bar.update(len(chunk))
        except KeyboardInterrupt as interrupt:
            bar.close()
            progress = f"{journal.done:,} of {total:,} rows are saved in {journal.path}"
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
            hint="It is fitted on rows held out from training. Train with data.dev, data.dev_share or "
            f"data.calibration_share, and evaluate with toolkit.open_run({str(run.path)!r}).evaluate({str(model)!r})",
        )
    if model.gguf and metrics.get("model_sha256") != file_sha256(model.gguf):
        raise RunError(
            f"calibrated=True uses the temperature in {path}, but it was fitted for a different file, not {model}.",
            hint=f"Evaluate this file: toolkit.open_run({str(run.path)!r}).evaluate({str(model)!r})",
        )
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise RunError(f"{path} is damaged: its temperature is not a number above 0.", hint="Evaluate again.")
    return float(temperature)
