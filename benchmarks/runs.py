"""Results of trained runs: accuracy, likelihood and calibration over seeds, and paired differences between protocols.

python benchmarks/runs.py outputs/objective --baseline tokens --out benchmarks/results/objective

The first argument is a folder with the layout PROTOCOL/MODEL/RUN: run folders that differ only in their seed are in the
same folder, which is named after the model. Every evaluation of an adapter with constrained decoding is a result.

The confidence interval of a mean over seeds is bootstrapped over whole groups of rows, such as the rows of a premise.
The value of a row is the share of the seeds that predict it correctly. The interval shows the variation over rows, and
the standard deviation shows the variation over seeds. Differences are paired: they compare two protocols with the same
seeds on the same rows.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Table, add_out_flag, report

RESAMPLES = 10_000
Key = tuple[str, str, str]
"""Protocol, model and data."""


def read_runs(folder: Path) -> dict[Key, list[dict[str, Any]]]:
    """Return the results of each protocol, model and data set, in the order of the seeds."""
    results: dict[Key, list[dict[str, Any]]] = {}
    for metrics_file in sorted(folder.glob("*/*/*/eval/*/metrics.json")):
        entry = read_result(metrics_file.parent)
        if entry is not None:
            results.setdefault((entry["protocol"], entry["model"], entry["data"]), []).append(entry)
    return {key: sorted(entries, key=lambda entry: entry["seed"]) for key, entries in results.items()}


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return an evaluation of an adapter as a result, with its correct rows and their groups, or None for another."""
    from toolkit.evaluation.prediction_files import read_evaluation

    rows = read_evaluation(folder)
    metrics, run = rows.metrics, folder.parent.parent
    overrides = metrics.get("overrides") or {}
    # An override of anything but the evaluation rows is another experiment, and a limit leaves out rows.
    if "data.eval.limit" in overrides or not all(key.startswith("data.eval.") for key in overrides):
        return None
    if metrics["model"] != "adapter" or metrics["mode"] != "constrained":
        return None
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    calibrated = metrics.get("cross_fitted_calibration") or {}
    return {
        "model": run.parent.name,
        "data": data_name(metrics["data"]["source"]),
        "protocol": run.parent.parent.name,
        "seed": record["seed"],
        "n": metrics["n"],
        "accuracy": metrics["accuracy"],
        "interval": metrics["accuracy_ci95"],
        "macro_f1": metrics["macro"]["f1"],
        "nll": metrics["nll"],
        "ece": metrics["ece"],
        "calibrated_nll": calibrated.get("nll"),
        "calibrated_ece": calibrated.get("ece"),
        "train_seconds": record.get("timings", {}).get("train_seconds"),
        "precision": record["precision"]["name"],
        "_rows": rows,
    }


def data_name(source: str) -> str:
    """Return a short name of rows: that of an embedded split, or the folder and the name of a file."""
    if source.startswith("embedded:"):
        return source.removeprefix("embedded:").replace(":", " ")
    path = Path(source.split(" ")[0])
    return f"{path.parent.name} {path.stem}"


def mean_over_seeds(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of all seeds together."""
    from toolkit.evaluation.prediction_files import check_same_rows

    first, rows = entries[0], [entry["_rows"] for entry in entries]
    for other in rows[1:]:
        check_same_rows(rows[0], other)
    groups = np.unique(rows[0].group_hashes, return_inverse=True)[1]
    accuracies = [entry["accuracy"] for entry in entries]
    interval = group_interval(np.mean([row.correct for row in rows], axis=0), groups)
    mean = {key: first[key] for key in ("model", "data", "protocol")}
    mean |= {
        "seed": "mean",
        "seeds": len(entries),
        "n": first["n"],
        "accuracy": statistics.fmean(accuracies),
        "interval": interval,
        "deviation": statistics.stdev(accuracies) if len(entries) > 1 else None,
    }
    for key in ("macro_f1", "nll", "ece", "calibrated_nll", "calibrated_ece", "train_seconds"):
        values = [entry[key] for entry in entries]
        mean[key] = None if None in values else statistics.fmean(values)
    return mean


def group_interval(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """Return the 95% bootstrap interval of the mean of [rows], resampling groups."""
    from toolkit.evaluation.intervals import percentile_interval, resample_groups, sum_by_group

    columns = np.stack([values, np.ones(len(values))], axis=1)
    resampled = resample_groups(sum_by_group(groups, columns), seed=0, resamples=RESAMPLES)
    return list(percentile_interval(resampled[:, 0] / resampled[:, 1]))


def compare(entries: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the difference in accuracy from the baseline, over the seeds that both have."""
    from toolkit.evaluation.comparison import mcnemar_exact
    from toolkit.evaluation.prediction_files import check_same_rows

    by_seed = {entry["seed"]: entry["_rows"] for entry in baseline}
    pairs = [(entry["_rows"], by_seed[entry["seed"]]) for entry in entries if entry["seed"] in by_seed]
    for ours, theirs in pairs:
        check_same_rows(ours, theirs)
    groups = np.unique(pairs[0][0].group_hashes, return_inverse=True)[1]
    differences = np.array([ours.correct.astype(float) - theirs.correct for ours, theirs in pairs])
    return {
        "protocol": baseline[0]["protocol"],
        "difference": float(differences.mean()),
        "interval": group_interval(differences.mean(axis=0), groups),
        "by_seed": differences.mean(axis=1).tolist(),
        "mcnemar_p": [mcnemar_exact(int((seed == 1).sum()), int((seed == -1).sum())) for seed in differences],
    }


def make_entries(results: dict[Key, list[dict[str, Any]]], baseline: str | None) -> Iterator[dict[str, Any]]:
    """Yield an entry per run, and one per mean over seeds, which has `against` if there is a baseline."""
    for (protocol, model, data), entries in results.items():
        yield from ({key: value for key, value in entry.items() if key != "_rows"} for entry in entries)
        mean = mean_over_seeds(entries)
        reference = results.get((baseline or "", model, data))
        if (
            reference is not None
            and protocol != baseline
            and {e["seed"] for e in entries} & {e["seed"] for e in reference}
        ):
            mean["against"] = compare(entries, reference)
        yield mean


def table(results: list[dict[str, Any]]) -> Table:
    """Return the means over seeds."""
    header = ["model", "data", "protocol", "seeds", "accuracy", "deviation", "nll", "ECE"]
    rows: Table = [[*header, "calibrated nll", "calibrated ECE", "difference"]]
    means = [entry for entry in results if entry["seed"] == "mean"]
    for entry in sorted(means, key=lambda entry: (entry["model"], entry["data"], "against" in entry)):
        low, high = entry["interval"]
        rows.append(
            [
                entry["model"],
                entry["data"],
                entry["protocol"],
                str(entry["seeds"]),
                f"{entry['accuracy']:.2%} [{low:.2%}, {high:.2%}]",
                "" if entry["deviation"] is None else f"{entry['deviation']:.2%}",
                *(
                    "" if entry[key] is None else f"{entry[key]:.4f}"
                    for key in ("nll", "ece", "calibrated_nll", "calibrated_ece")
                ),
                describe_difference(entry.get("against")),
            ]
        )
    return rows


def describe_difference(against: dict[str, Any] | None) -> str:
    """Return a difference from the baseline with its interval, in percentage points."""
    if against is None:
        return ""
    low, high = against["interval"]
    return f"{100 * against['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def main() -> None:
    """Read the runs and write their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with PROTOCOL/MODEL/RUN")
    parser.add_argument("--baseline", metavar="PROTOCOL", help="the protocol to compare the others with")
    add_out_flag(parser)
    arguments = parser.parse_args()
    results = read_runs(arguments.folder)
    if not results:
        parser.error(f"{arguments.folder} has no evaluated runs: expected PROTOCOL/MODEL/RUN/eval/adapter")
    if arguments.baseline and arguments.baseline not in {protocol for protocol, _, _ in results}:
        parser.error(f"{arguments.folder} has no protocol {arguments.baseline}")
    report("Results of trained runs", list(make_entries(results, arguments.baseline)), arguments.out, table)


if __name__ == "__main__":
    main()
