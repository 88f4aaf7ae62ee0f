"""Reading of saved predictions as label codes and hashes, so that a million rows need little memory."""

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from toolkit.errors import DataError
from toolkit.recipe.inputs import NLI_INPUTS
from toolkit.runs.evaluation_seal import check_evaluation
from toolkit.runs.run_folder import check_is_evaluation, read_json_object
from toolkit.utils.formatting import join_names

logger = logging.getLogger(__name__)

_NO_LABEL = -1
_EVALUATE_AGAIN = "Evaluate again: run.evaluate()"


@dataclass(frozen=True)
class EvaluatedRows:
    """The rows of one evaluation, without their texts.

    Args:
        folder: The folder with metrics.json and predictions.jsonl.
        name: The names of run and evaluation, e.g. `nli_fr/adapter`.
        metrics: The contents of metrics.json.
        labels: The classes, sorted. A label's code is its index here.
        gold: [rows], codes of the gold labels.
        predicted: [rows], codes of the predictions, -1 for an invalid answer.
        row_hashes: [rows], 64-bit hashes of id, inputs and gold label.
        group_hashes: [rows], 64-bit hashes of the first input.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    labels: tuple[str, ...]
    gold: np.ndarray
    predicted: np.ndarray
    row_hashes: np.ndarray
    group_hashes: np.ndarray

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the rows' inputs. Rows with the same text in the first one form a group."""
        return evaluated_inputs(self.metrics)

    @property
    def correct(self) -> np.ndarray:
        """Booleans [rows], True if the prediction is the gold label."""
        return self.gold == self.predicted


def evaluated_inputs(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the inputs of evaluated rows.

    Args:
        metrics: The contents of metrics.json. Older files do not name the inputs, because all were of NLI.
    """
    return tuple(metrics.get("inputs") or NLI_INPUTS)


def read_evaluation(folder: Path) -> EvaluatedRows:
    """Read an evaluation's folder.

    Raises:
        RunError: If the folder is not an evaluation.
        DataError: If a row cannot be read.
        SealError: If the evaluation has changed since it was made, or was not made by the run that it is in.
    """
    metrics = _read_metrics(folder)
    for change in check_evaluation(folder, metrics, _EVALUATE_AGAIN):
        logger.warning("WARNING: %s", change)
    # Sorted, so that codes agree between evaluations whose recipes list the same labels in another order.
    labels = tuple(sorted(metrics["labels"]))
    label_codes = {label: i for i, label in enumerate(labels)}
    prediction_codes = {**label_codes, None: _NO_LABEL}
    # 24 bytes per row: two 32-bit codes and two 64-bit hashes.
    gold, predicted, row_hashes, group_hashes = array("i"), array("i"), array("q"), array("q")
    group, *_ = inputs = evaluated_inputs(metrics)
    # Sorted, because two prompts can have the same inputs in another order.
    identity = ("id", *sorted(inputs), "label")
    for number, row in enumerate(_read_rows(folder), 1):
        try:
            gold.append(label_codes[row["label"]])
            predicted.append(prediction_codes[row["prediction"]])
            # Python salts string hashes per process. That is fine: all hashes that are compared are computed here.
            row_hashes.append(hash(tuple(row[key] for key in identity)))
            group_hashes.append(hash(row[group]))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{folder / 'predictions.jsonl'}, line {number} is not a prediction for the labels "
                f"{join_names(labels)}.",
                hint=_EVALUATE_AGAIN,
            ) from error
    if not row_hashes:
        raise DataError(f"{folder / 'predictions.jsonl'} has no rows.", hint=_EVALUATE_AGAIN)
    return EvaluatedRows(
        folder,
        f"{folder.resolve().parent.parent.name}/{folder.resolve().name}",
        metrics,
        labels,
        *(np.frombuffer(values, dtype=values.typecode) for values in (gold, predicted, row_hashes, group_hashes)),
    )


def _read_metrics(folder: Path) -> dict[str, Any]:
    check_is_evaluation(folder)
    metrics = read_json_object(folder / "metrics.json")
    labels = metrics.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{folder / 'metrics.json'} has no list of labels.", hint=_EVALUATE_AGAIN)
    inputs = metrics.get("inputs") or []
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise DataError(
            f"{folder / 'metrics.json'} has a field inputs that is not a list of names.", hint=_EVALUATE_AGAIN
        )
    return metrics


def _read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "predictions.jsonl"
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield from_json(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.", hint=_EVALUATE_AGAIN) from error


def check_same_rows(first: EvaluatedRows, second: EvaluatedRows) -> None:
    """Check that two evaluations have the same ids, inputs and gold labels, in the same order.

    Raises:
        DataError: If they do not; the message names the first row that differs.
    """
    if first.labels != second.labels:
        raise DataError(
            f"{first.name} has the labels {join_names(first.labels)}, but {second.name} has "
            f"{join_names(second.labels)}, so they cannot be compared."
        )
    if set(first.inputs) != set(second.inputs):
        raise DataError(
            f"{first.name} has rows of {join_names(first.inputs, 'and')}, but {second.name} has rows of "
            f"{join_names(second.inputs, 'and')}, so they cannot be compared."
        )
    common = min(len(first.row_hashes), len(second.row_hashes))
    differing = np.flatnonzero(first.row_hashes[:common] != second.row_hashes[:common])
    if not len(differing) and len(first.row_hashes) == len(second.row_hashes):
        return
    # If one evaluation is a prefix of the other, the first difference is the first row that it lacks.
    position = int(differing[0]) if len(differing) else common
    raise DataError(
        f"{first.name} and {second.name} do not have the same rows in the same order: row {position + 1} "
        f"{_describe_difference(first, second, position)}.",
        hint="Evaluate both on the same rows: with the same data=FILE and limit=N.",
    )


def _describe_difference(first: EvaluatedRows, second: EvaluatedRows, position: int) -> str:
    first_row, second_row = (_row_at(evaluation, position) for evaluation in (first, second))
    if first_row is None or second_row is None:
        return f"is only in {(first if second_row is None else second).name}"
    key = next(key for key in ("id", *first.inputs, "label") if first_row[key] != second_row[key])
    return f"has {key} {_shorten(first_row[key])} in the first and {_shorten(second_row[key])} in the second"


def _row_at(evaluation: EvaluatedRows, position: int) -> dict[str, Any] | None:
    return next((row for number, row in enumerate(_read_rows(evaluation.folder)) if number == position), None)


def _shorten(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def differing_rows(evaluations: Sequence[EvaluatedRows], selected: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield id, inputs, gold label and all predictions of the selected rows, read from the files again.

    Args:
        evaluations: Evaluations of the same rows.
        selected: [rows], True for the rows to yield.
    """
    keys = ("id", *evaluations[0].inputs, "label")
    with ExitStack() as stack:
        files = [
            stack.enter_context((evaluation.folder / "predictions.jsonl").open("rb")) for evaluation in evaluations
        ]
        for *lines, is_selected in zip(*files, selected.tolist(), strict=True):
            if is_selected:
                rows = [from_json(line) for line in lines]
                predictions = {
                    evaluation.name: row["prediction"] for evaluation, row in zip(evaluations, rows, strict=True)
                }
                yield {key: rows[0][key] for key in keys} | {"predictions": predictions}
