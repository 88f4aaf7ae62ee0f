"""The results of a study: means over seeds, paired tests with the first variant, learning curves and costs."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from toolkit.errors import DataError, ToolkitError
from toolkit.evaluation.learning_curve import MIN_SIZES, LearningCurve, fit_learning_curve
from toolkit.evaluation.prediction_files import EvaluatedRows, check_same_rows, read_evaluation
from toolkit.evaluation.seeds import compare_seeds, correct_share, holm_adjust, mean_over_seeds, row_groups
from toolkit.runs.run_folder import RunFolder
from toolkit.studies.cells import Cell, Measurement, variant_sizes
from toolkit.studies.schema import BASELINE_SUFFIX, Study
from toolkit.studies.study_folder import StudyFolder

_COSTS = ("train_seconds", "peak_memory_bytes", "rows_per_second")
_NO_COSTS: dict[str, float | None] = dict.fromkeys(_COSTS)
_MEANS = ("macro_f1", "nll", "ece", "calibrated_nll", "calibrated_ece")
_COLUMNS = (
    "variant", "evaluation", "train_size", "seeds", "n", "accuracy", "low", "high", "standard_deviation", *_MEANS,
    "difference", "difference_low", "difference_high", "p_value", "holm_p_value", *_COSTS,
)  # fmt: skip


@dataclass(frozen=True)
class SeedResult:
    """One evaluation of one run.

    Args:
        seed: The seed of the run.
        trained_rows: The number of rows that the model was trained on; None for a base model.
        rows: The evaluated rows.
        costs: Seconds of training, peak memory of training and rows scored per second; those of training are None for
            a base model.
    """

    seed: int
    trained_rows: int | None
    rows: EvaluatedRows
    costs: Mapping[str, float | None]


Key = tuple[str, str, int | None]
"""A variant, an evaluation, and a training set size (None for all rows)."""


@dataclass
class Results:
    """The finished evaluations of a study.

    Args:
        study: The study.
        seeds: The results of each variant, evaluation and size, in the order of the variants.
        problems: Sentences about evaluations that could not be read or used.
    """

    study: Study
    seeds: dict[Key, list[SeedResult]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The name of the first variant, which the others are compared with."""
        return self.study.variants[0].name

    def largest_sizes(self) -> dict[str, int | None]:
        """Return the largest training set size of each variant, whether its runs are finished or not."""
        return {variant.name: variant_sizes(self.study, variant)[-1] for variant in self.study.variants}


def gather_results(folder: StudyFolder, study: Study, cells: Sequence[Cell]) -> Results:
    """Read the finished evaluations of all cells.

    A variant that shares the runs of an earlier one has no separate cells, so the results are sorted by variant.
    """
    results = Results(study)
    for cell in cells:
        state, run = folder.state(cell.name), folder.run(cell.name)
        if not run.is_finished:
            continue
        for measurement in cell.measurements:
            name = state.evaluations.get(measurement.key)
            if name is None or not (run.eval / name / "metrics.json").is_file():
                continue
            try:
                result = _read_result(cell.recipe.seed, run, name, measurement)
            except ToolkitError as error:
                results.problems.append(f"{cell.name}, {measurement.evaluation}: {error}")
                continue
            key = (measurement.variant, measurement.evaluation, measurement.train_size)
            results.seeds.setdefault(key, []).append(result)
    order = {variant.name: number for number, variant in enumerate(study.variants)}
    results.seeds = dict(sorted(results.seeds.items(), key=lambda item: (order[item[0][0]], item[0][2] or 0)))
    return results


def _read_result(seed: int, run: RunFolder, name: str, measurement: Measurement) -> SeedResult:
    rows, record = read_evaluation(run.eval / name), run.record
    is_trained = measurement.request.model.name == "adapter"
    costs = {
        "train_seconds": record.get("timings", {}).get("train_seconds") if is_trained else None,
        "peak_memory_bytes": record.get("peak_memory_bytes") if is_trained else None,
        "rows_per_second": rows.metrics.get("speed", {}).get("examples_per_second"),
    }
    return SeedResult(seed, record["data"]["train"]["rows"] if is_trained else None, rows, costs)


def add_baselines(results: Results) -> None:
    """Add the baselines, fitted on the training rows of the first variant's first seed."""
    from toolkit.evaluation.baseline_rows import baseline_rows

    size = results.largest_sizes()[results.first]
    for evaluation in results.study.evaluations:
        if not (seeds := results.seeds.get((results.first, evaluation, size))):
            continue
        try:
            for name, rows in baseline_rows(seeds[0].rows).items():
                baseline = SeedResult(seeds[0].seed, None, rows, _NO_COSTS)
                results.seeds[f"{name}{BASELINE_SUFFIX}", evaluation, None] = [baseline]
        except ToolkitError as error:
            results.problems.append(f"baselines on {evaluation}: {error}")


def summarize(results: Results) -> list[dict[str, Any]]:
    """Return an entry for each variant, evaluation and size, with tests against the first variant.

    The largest size of each variant is compared with the largest size of the first. There is no test if one of them is
    not finished, or if they were evaluated on different rows. The p-values of all tests are adjusted together (Holm).
    """
    entries: dict[Key, dict[str, Any]] = {}
    for key, seeds in results.seeds.items():
        try:
            entries[key] = _summarize_seeds(key, seeds)
        except DataError as error:
            results.problems.append(f"{key[0]}, {key[1]}: the seeds cannot be averaged: {error}")
    largest, tested = results.largest_sizes(), []
    for variant, evaluation, size in entries:
        first = (results.first, evaluation, largest[results.first])
        if variant == results.first or first not in entries or size != largest.get(variant):
            continue
        ours, theirs = ([seed.rows for seed in results.seeds[key]] for key in ((variant, evaluation, size), first))
        try:
            comparison = compare_seeds(ours, theirs)
        except DataError:  # recipes with different evaluation rows
            entries[variant, evaluation, size]["has_other_rows"] = True
            continue
        test = {**asdict(comparison), "interval": list(comparison.interval)}
        entries[variant, evaluation, size]["against_first"] = test
        tested.append(test)
    for test, adjusted in zip(tested, holm_adjust([test["p_value"] for test in tested]), strict=True):
        test["holm_p_value"] = adjusted
    return list(entries.values())


def _summarize_seeds(key: Key, seeds: Sequence[SeedResult]) -> dict[str, Any]:
    variant, evaluation, size = key
    mean = mean_over_seeds([seed.rows for seed in seeds])
    # `baseline_rows` keeps the metrics of the model's evaluation, which are not those of the baseline.
    metrics = [{} if seed.costs is _NO_COSTS else seed.rows.metrics for seed in seeds]
    calibrated = [values.get("cross_fitted_calibration") or {} for values in metrics]
    return {
        "variant": variant,
        "evaluation": evaluation,
        "train_size": size,
        "trained_rows": _mean([seed.trained_rows for seed in seeds]),
        "seeds": [seed.seed for seed in seeds],
        "n": len(seeds[0].rows.gold),
        "accuracy": mean.accuracy,
        "interval": list(mean.interval),
        "standard_deviation": mean.deviation,
        "accuracy_by_seed": [float(seed.rows.correct.mean()) for seed in seeds],
        "macro_f1": _mean([values.get("macro", {}).get("f1") for values in metrics]),
        "nll": _mean([values.get("nll") for values in metrics]),
        "ece": _mean([values.get("ece") for values in metrics]),
        "calibrated_nll": _mean([values.get("nll") for values in calibrated]),
        "calibrated_ece": _mean([values.get("ece") for values in calibrated]),
        "against_first": None,
        "has_other_rows": False,
        **{name: _mean([seed.costs[name] for seed in seeds]) for name in _COSTS},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if len(present) == len(values) else None


def fit_learning_curves(results: Results) -> list[dict[str, Any]]:
    """Return a learning curve for each trained variant and evaluation with enough sizes."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for variant, evaluation, size in results.seeds:
        if size is not None:
            sizes.setdefault((variant, evaluation), []).append(size)
    curves = []
    for (variant, evaluation), finished in sizes.items():
        if len(finished) < MIN_SIZES:
            continue
        points = [results.seeds[variant, evaluation, size] for size in sorted(finished)]
        try:
            curve = _fit_points(points)
        except DataError as error:
            results.problems.append(f"learning curve of {variant} on {evaluation}: {error}")
            continue
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(curve).items()}
        curves.append({"variant": variant, "evaluation": evaluation, **fields})
    return curves


def _fit_points(points: Sequence[Sequence[SeedResult]]) -> LearningCurve:
    first = points[0][0].rows
    for point in points[1:]:
        check_same_rows(first, point[0].rows)
    return fit_learning_curve(
        [statistics.fmean(seed.trained_rows or 0 for seed in point) for point in points],
        np.stack([correct_share([seed.rows for seed in point]) for point in points]),
        row_groups(first),
        majority_accuracy=float(np.bincount(first.gold).max() / len(first.gold)),
    )


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
