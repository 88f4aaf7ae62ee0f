"""Evaluations on disk, read row by row into codes and hashes, so that a million rows need little memory."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from toolkit.errors import DataError
from toolkit.runs.run_folder import check_is_evaluation, read_object

_COMPARED_KEYS = ("id", "premise", "hypothesis", "label")
_NO_LABEL = -1
_EVALUATE_AGAIN = "Evaluate again: run.evaluate()"


@dataclass(frozen=True)
class EvaluatedRows:
    """One evaluation, without its texts.

    Args:
        folder: where its metrics.json and predictions.jsonl are.
        name: run and evaluation, e.g. `nli_fr/adapter`.
        metrics: what metrics.json holds.
        labels: the classes, in sorted order, which the codes count in.
        gold: [rows], codes of the true labels.
        predicted: [rows], codes; -1 where a free answer was no label.
        row_hashes: [rows], a 64-bit hash of id, texts and gold label.
        premise_hashes: [rows], a 64-bit hash of the premise.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    labels: tuple[str, ...]
    gold: np.ndarray
    predicted: np.ndarray
    row_hashes: np.ndarray
    premise_hashes: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """[rows], whether the prediction is the gold label."""
        return self.gold == self.predicted


def read_evaluation(folder: Path) -> EvaluatedRows:
    """Read a folder that `eval_generate.py` wrote.

    Raises:
        RunError: it is no such folder.
        DataError: a row of it cannot be read.
    """
    metrics = _read_metrics(folder)
    labels = tuple(sorted(metrics["labels"]))
    label_codes = {label: i for i, label in enumerate(labels)}
    prediction_codes = {**label_codes, None: _NO_LABEL}
    gold, predicted, row_hashes, premise_hashes = array("i"), array("i"), array("q"), array("q")
    for number, row in enumerate(_read_rows(folder), 1):
        try:
            gold.append(label_codes[row["label"]])
            predicted.append(prediction_codes[row["prediction"]])
            # Python's own hash: another one in each process, but all that are compared are made in this one.
            row_hashes.append(hash((row["id"], row["premise"], row["hypothesis"], row["label"])))
            premise_hashes.append(hash(row["premise"]))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{folder / 'predictions.jsonl'}, line {number} is no prediction on the labels {', '.join(labels)}.",
                hint=_EVALUATE_AGAIN,
            ) from error
    if not row_hashes:
        raise DataError(f"{folder / 'predictions.jsonl'} holds no rows.", hint=_EVALUATE_AGAIN)
    return EvaluatedRows(
        folder,
        f"{folder.resolve().parent.parent.name}/{folder.resolve().name}",
        metrics,
        labels,
        *(np.frombuffer(values, dtype=values.typecode) for values in (gold, predicted, row_hashes, premise_hashes)),
    )


def _read_metrics(folder: Path) -> dict[str, Any]:
    check_is_evaluation(folder)
    metrics = read_object(folder / "metrics.json")
    labels = metrics.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{folder / 'metrics.json'} names no labels.", hint=_EVALUATE_AGAIN)
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
    """Refuse two evaluations whose ids, texts or gold labels are not equal in the same order.

    Raises:
        DataError: naming the first row that differs, and in what.
    """
    if first.labels != second.labels:
        raise DataError(
            f"{first.name} is about the labels {', '.join(first.labels)}, {second.name} about "
            f"{', '.join(second.labels)}: they cannot be compared."
        )
    common = min(len(first.row_hashes), len(second.row_hashes))
    differing = np.flatnonzero(first.row_hashes[:common] != second.row_hashes[:common])
    if not len(differing) and len(first.row_hashes) == len(second.row_hashes):
        return
    position = int(differing[0]) if len(differing) else common
    raise DataError(
        f"{first.name} and {second.name} are not about the same rows in the same order: row {position + 1} "
        f"{_describe_difference(first, second, position)}.",
        hint="Evaluate both on the same rows: with the same data=FILE and limit=N.",
    )


def _describe_difference(first: EvaluatedRows, second: EvaluatedRows, position: int) -> str:
    first_row, second_row = (_row_at(evaluation, position) for evaluation in (first, second))
    if first_row is None or second_row is None:
        return f"stands in {(first if second_row is None else second).name} alone"
    key = next(key for key in _COMPARED_KEYS if first_row[key] != second_row[key])
    return f"has {key} {_shorten(first_row[key])} in the one and {_shorten(second_row[key])} in the other"


def _row_at(evaluation: EvaluatedRows, position: int) -> dict[str, Any] | None:
    return next((row for number, row in enumerate(_read_rows(evaluation.folder)) if number == position), None)


def _shorten(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def differing_rows(evaluations: Sequence[EvaluatedRows], selected: np.ndarray) -> Iterator[dict[str, Any]]:
    """Read the files again and yield id, texts, gold label and every evaluation's prediction of the chosen rows.

    Args:
        evaluations: of the same rows.
        selected: [rows], which ones.
    """
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
                yield {key: rows[0][key] for key in _COMPARED_KEYS} | {"predictions": predictions}
