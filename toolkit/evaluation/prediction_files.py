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
from toolkit.run_folder import read_object, refuse_no_evaluation

_COMPARED = ("id", "premise", "hypothesis", "label")
_NO_LABEL = -1
_AGAIN = "Evaluate again: python scripts/eval_generate.py RUN"


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
        rows: [rows], a 64-bit hash of id, texts and gold label.
        premises: [rows], a 64-bit hash of the premise.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    labels: tuple[str, ...]
    gold: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray
    premises: np.ndarray

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
    code = {label: i for i, label in enumerate(labels)}
    answer_code = {**code, None: _NO_LABEL}
    gold, predicted, rows, premises = array("i"), array("i"), array("q"), array("q")
    for number, row in enumerate(_rows(folder), 1):
        try:
            gold.append(code[row["label"]])
            predicted.append(answer_code[row["prediction"]])
            # Python's own hash: another one in each process, but all that are compared are made in this one.
            rows.append(hash((row["id"], row["premise"], row["hypothesis"], row["label"])))
            premises.append(hash(row["premise"]))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{folder / 'predictions.jsonl'}, line {number} is no prediction on the labels {', '.join(labels)}.",
                hint=_AGAIN,
            ) from error
    if not rows:
        raise DataError(f"{folder / 'predictions.jsonl'} holds no rows.", hint=_AGAIN)
    return EvaluatedRows(
        folder,
        f"{folder.resolve().parent.parent.name}/{folder.resolve().name}",
        metrics,
        labels,
        *(np.frombuffer(values, dtype=values.typecode) for values in (gold, predicted, rows, premises)),
    )


def _read_metrics(folder: Path) -> dict[str, Any]:
    refuse_no_evaluation(folder)
    metrics = read_object(folder / "metrics.json")
    labels = metrics.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{folder / 'metrics.json'} names no labels.", hint=_AGAIN)
    return metrics


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "predictions.jsonl"
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield from_json(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}.", hint=_AGAIN) from error


def refuse_other_rows(first: EvaluatedRows, other: EvaluatedRows) -> None:
    """Refuse two evaluations whose ids, texts or gold labels are not equal in the same order.

    Raises:
        DataError: naming the first row that differs, and in what.
    """
    if first.labels != other.labels:
        raise DataError(
            f"{first.name} is about the labels {', '.join(first.labels)}, {other.name} about "
            f"{', '.join(other.labels)}: they cannot be compared."
        )
    shared = min(len(first.rows), len(other.rows))
    differing = np.flatnonzero(first.rows[:shared] != other.rows[:shared])
    if not len(differing) and len(first.rows) == len(other.rows):
        return
    position = int(differing[0]) if len(differing) else shared
    raise DataError(
        f"{first.name} and {other.name} are not about the same rows in the same order: row {position + 1} "
        f"{_difference(first, other, position)}.",
        hint="Evaluate both on the same rows: eval_generate.py with the same --data and --limit.",
    )


def _difference(first: EvaluatedRows, other: EvaluatedRows, position: int) -> str:
    ours, theirs = (_row_at(evaluation, position) for evaluation in (first, other))
    if ours is None or theirs is None:
        return f"stands in {(first if theirs is None else other).name} alone"
    key = next(key for key in _COMPARED if ours[key] != theirs[key])
    return f"has {key} {_shorten(ours[key])} in the one and {_shorten(theirs[key])} in the other"


def _row_at(evaluation: EvaluatedRows, position: int) -> dict[str, Any] | None:
    return next((row for number, row in enumerate(_rows(evaluation.folder)) if number == position), None)


def _shorten(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def differing_rows(evaluations: Sequence[EvaluatedRows], chosen: np.ndarray) -> Iterator[dict[str, Any]]:
    """Read the files again and yield id, texts, gold label and every evaluation's prediction of the chosen rows.

    Args:
        evaluations: of the same rows.
        chosen: [rows], which ones.
    """
    with ExitStack() as stack:
        files = [stack.enter_context((one.folder / "predictions.jsonl").open("rb")) for one in evaluations]
        for *lines, is_chosen in zip(*files, chosen.tolist(), strict=True):
            if is_chosen:
                rows = [from_json(line) for line in lines]
                said = {one.name: row["prediction"] for one, row in zip(evaluations, rows, strict=True)}
                yield {key: rows[0][key] for key in _COMPARED} | {"predictions": said}
