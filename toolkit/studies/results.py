"""The results of a study: means over seeds, paired tests with the first row, learning curves and costs."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from toolkit.errors import DataError
from toolkit.evaluation.learning_curve import MIN_SIZES, fit_learning_curve
from toolkit.evaluation.prediction_files import EvaluatedRows, read_evaluation
from toolkit.evaluation.seeds import compare_seeds, correct_share, holm, mean_over_seeds, row_groups
from toolkit.studies.cells import Cell
from toolkit.studies.schema import Study
from toolkit.studies.study_folder import StudyFolder

_COSTS = ("train_seconds", "peak_memory_bytes", "rows_per_second")
_NO_COSTS: dict[str, float | None] = dict.fromkeys(_COSTS)
_MEANS = ("macro_f1", "nll", "ece", "calibrated_nll", "calibrated_ece")
_COLUMNS = (
    "row", "evaluation", "train_rows", "seeds", "n", "accuracy", "low", "high", "deviation", *_MEANS, "difference",
    "difference_low", "difference_high", "p_value", "holm_p_value", *_COSTS,
)  # fmt: skip


@dataclass(frozen=True)
class SeedResult:
    """One evaluation of one run.

    Args:
        seed: The seed of the run.
        trained_rows: The number of rows that the run was trained on.
        rows: The evaluated rows.
        costs: Seconds of training, peak memory of training and rows scored per second; those of training are None for
            a base model.
    """

    seed: int
    trained_rows: int
    rows: EvaluatedRows
    costs: Mapping[str, float | None]


Key = tuple[str, str, int | None]
"""A row of the table, an evaluation, and a number of training rows (None for all)."""


def gather_results(folder: StudyFolder, study: Study, cells: Sequence[Cell]) -> dict[Key, list[SeedResult]]:
    """Read the finished evaluations of all cells, in the order of the rows of the table.

    The order of the cells can differ: a row that shares the runs of an earlier one has no cells of its own.

    Raises:
        ToolkitError: If one of them is damaged or does not match its seal.
    """
    results: dict[Key, list[SeedResult]] = {}
    for cell in cells:
        state, run = folder.state(cell.name), folder.run(cell.name)
        for measurement in cell.measurements:
            name = state.evaluations.get(measurement.key)
            if name is None or not (run.eval / name / "metrics.json").is_file():
                continue
            rows, record = read_evaluation(run.eval / name), run.record
            is_trained = measurement.request.model.name == "adapter"
            costs = {
                "train_seconds": record.get("timings", {}).get("train_seconds") if is_trained else None,
                "peak_memory_bytes": record.get("peak_memory_bytes") if is_trained else None,
                "rows_per_second": rows.metrics.get("speed", {}).get("examples_per_second"),
            }
            key = (measurement.row, measurement.evaluation, cell.train_rows)
            results.setdefault(key, []).append(SeedResult(cell.seed, record["data"]["train"]["rows"], rows, costs))
    order = {row.name: number for number, row in enumerate(study.rows)}
    return dict(sorted(results.items(), key=lambda item: (order[item[0][0]], item[0][2] or 0)))


def with_baselines(results: Mapping[Key, list[SeedResult]], first_row: str) -> dict[Key, list[SeedResult]]:
    """Return the results with those of the baselines, fitted on the training rows of the first row's first seed."""
    from toolkit.evaluation.baseline_rows import baseline_rows

    added = dict(results)
    for row, evaluation, size in results:
        if row == first_row and size == _largest_size(results, row, evaluation):
            first = results[row, evaluation, size][0]
            for name, rows in baseline_rows(first.rows).items():
                added[f"{name} (baseline)", evaluation, None] = [
                    SeedResult(first.seed, first.trained_rows, rows, _NO_COSTS)
                ]
    return added


def summarize(results: Mapping[Key, list[SeedResult]], first_row: str) -> list[dict[str, Any]]:
    """Return an entry for each row, evaluation and size, with a test of each row's largest size against the first row.

    The p-values of all tests are adjusted together (Holm).
    """
    entries = {key: _summarize_seeds(key, seeds) for key, seeds in results.items()}
    tested = []
    for (row, evaluation, size), seeds in results.items():
        first_size = _largest_size(results, first_row, evaluation)
        baseline = results.get((first_row, evaluation, first_size))
        if row == first_row or baseline is None or size != _largest_size(results, row, evaluation):
            continue
        try:
            comparison = compare_seeds([seed.rows for seed in seeds], [seed.rows for seed in baseline])
        except DataError:  # recipes with different evaluation rows
            continue
        entry = entries[row, evaluation, size]
        entry["against_first"] = {**asdict(comparison), "interval": list(comparison.interval)}
        tested.append(entry["against_first"])
    for test, adjusted in zip(tested, holm([test["p_value"] for test in tested]), strict=True):
        test["holm_p_value"] = adjusted
    return list(entries.values())


def _largest_size(results: Mapping[Key, list[SeedResult]], row: str, evaluation: str) -> int | None:
    sizes = [size for name, data, size in results if (name, data) == (row, evaluation)]
    return max((size for size in sizes if size is not None), default=None)


def _summarize_seeds(key: Key, seeds: Sequence[SeedResult]) -> dict[str, Any]:
    row, evaluation, size = key
    mean = mean_over_seeds([seed.rows for seed in seeds])
    # The metrics of a baseline are those of the model that was evaluated on the same rows.
    metrics = [{} if seed.costs is _NO_COSTS else seed.rows.metrics for seed in seeds]
    calibrated = [values.get("cross_fitted_calibration") or {} for values in metrics]
    return {
        "row": row,
        "evaluation": evaluation,
        "train_rows": size,
        "trained_rows": statistics.fmean(seed.trained_rows for seed in seeds),
        "seeds": [seed.seed for seed in seeds],
        "n": len(seeds[0].rows.gold),
        "accuracy": mean.accuracy,
        "interval": list(mean.interval),
        "deviation": mean.deviation,
        "accuracy_by_seed": [float(seed.rows.correct.mean()) for seed in seeds],
        "macro_f1": _mean([values.get("macro", {}).get("f1") for values in metrics]),
        "nll": _mean([values.get("nll") for values in metrics]),
        "ece": _mean([values.get("ece") for values in metrics]),
        "calibrated_nll": _mean([values.get("nll") for values in calibrated]),
        "calibrated_ece": _mean([values.get("ece") for values in calibrated]),
        "against_first": None,
        **{name: _mean([seed.costs[name] for seed in seeds]) for name in _COSTS},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if len(present) == len(values) else None


def fit_learning_curves(results: Mapping[Key, list[SeedResult]]) -> list[dict[str, Any]]:
    """Return a learning curve for each row and evaluation with enough sizes."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for row, evaluation, size in results:
        if size is not None:
            sizes.setdefault((row, evaluation), []).append(size)
    curves = []
    for (row, evaluation), row_sizes in sizes.items():
        if len(row_sizes) < MIN_SIZES:
            continue
        seeds = [results[row, evaluation, size] for size in sorted(row_sizes)]
        curve = fit_learning_curve(
            [statistics.fmean(seed.trained_rows for seed in point) for point in seeds],
            np.stack([correct_share([seed.rows for seed in point]) for point in seeds]),
            row_groups(seeds[0][0].rows),
        )
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(curve).items()}
        curves.append({"row": row, "evaluation": evaluation, **fields})
    return curves


def results_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the entries of `summarize` as CSV, a line for each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        test = entry["against_first"] or {}
        low, high = test.get("interval") or (None, None)
        writer.writerow(
            {
                **entry,
                "seeds": len(entry["seeds"]),
                "low": entry["interval"][0],
                "high": entry["interval"][1],
                "difference": test.get("difference"),
                "difference_low": low,
                "difference_high": high,
                "p_value": test.get("p_value"),
                "holm_p_value": test.get("holm_p_value"),
            }
        )
    return text.getvalue()
