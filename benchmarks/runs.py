"""Results of trained runs: accuracy, likelihood and calibration over seeds, and paired differences.

python benchmarks/runs.py outputs/objective --baseline tokens --out benchmarks/results/objective
python benchmarks/runs.py outputs/real --reference gemma-3-270m --out benchmarks/results/real

The first argument is a folder with the layout PROTOCOL/MODEL/RUN: run folders that differ only in their seed are in the
same folder, which is named after the model. Every evaluation of an adapter, of the base model or of an exported GGUF
file with constrained decoding is a result. Evaluations of the base model are named `MODEL zero-shot` or `MODEL K-shot`,
and those of a GGUF file `MODEL TYPE`, e.g. `MODEL q8_0`.

The confidence interval of a mean over seeds is bootstrapped over whole groups of rows, such as the rows of a premise.
The value of a row is the share of the seeds that predict it correctly. The interval shows the variation over rows, and
the standard deviation shows the variation over seeds.

Results that are already in the output folder are kept unless the first argument has newer ones of the same runs: those
were measured on another machine, whose run folders may no longer exist. Remove the output folder to start over.

Differences are paired by row. `--baseline` compares the same model between protocols, over the seeds that both have.
`--reference` compares a model with every other one, and adds the baselines to the results.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kept_results import Key, Result, add_kept, save_rows
from run_folders import BASELINES, read_runs
from side_by_side import Table, add_out_flag, report

from toolkit.evaluation.comparison import mcnemar_exact
from toolkit.evaluation.seeds import compare_seeds, holm_adjust, mean_over_seeds
from toolkit.studies.page import p_value

MEANS = (
    "macro_f1", "nll", "ece", "calibrated_nll", "calibrated_ece", "rows_per_second", "train_seconds",
    "peak_memory_bytes", "trainable_parameters", "agreement", "largest_probability_change",
)  # fmt: skip
"""The fields of a result that are averaged over seeds."""


def summarize_seeds(entries: Sequence[Result]) -> dict[str, Any]:
    """Return the result of all seeds together."""
    first, mean = entries[0], mean_over_seeds([entry["_rows"] for entry in entries])
    result = {key: first[key] for key in ("model", "data", "protocol")}
    result |= {
        "seed": "mean",
        "seeds": len(entries),
        "n": first["n"],
        "accuracy": mean.accuracy,
        "interval": list(mean.interval),
        "deviation": mean.deviation,
    }
    for key in MEANS:
        values = [entry.get(key) for entry in entries]
        result[key] = None if None in values else statistics.fmean(values)
    return result


def compare_protocols(entries: Sequence[Result], baseline: Sequence[Result]) -> dict[str, Any]:
    """Return the difference in accuracy from the baseline, over the seeds that both have."""
    by_seed = {entry["seed"]: entry["_rows"] for entry in baseline}
    pairs = [(entry["_rows"], by_seed[entry["seed"]]) for entry in entries if entry["seed"] in by_seed]
    comparison = compare_seeds([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    differences = [ours.correct.astype(int) - theirs.correct for ours, theirs in pairs]
    return {
        "protocol": baseline[0]["protocol"],
        "difference": comparison.difference,
        "interval": list(comparison.interval),
        "by_seed": [float(seed.mean()) for seed in differences],
        "mcnemar_p": [mcnemar_exact(int((seed == 1).sum()), int((seed == -1).sum())) for seed in differences],
    }


def compare_models(entries: Sequence[Result], others: Sequence[Result]) -> dict[str, Any]:
    """Return the difference in accuracy from another model on the same rows.

    The seeds of two models have nothing in common, so each row counts with its mean over the seeds of a model. A GGUF
    file is compared only with the runs that were exported.
    """
    if "agreement" in others[0] and others[0]["model"].startswith(f"{entries[0]['model']} "):
        exported = {entry["seed"] for entry in others}
        entries = [entry for entry in entries if entry["seed"] in exported]
    comparison = compare_seeds(*([entry["_rows"] for entry in model] for model in (entries, others)))
    return {
        "model": others[0]["model"],
        "difference": comparison.difference,
        "interval": list(comparison.interval),
        "p_value": comparison.p_value,
    }


def make_entries(results: dict[Key, list[Result]], baseline: str | None, reference: str | None) -> Iterator[Result]:
    """Yield an entry per run, and one per mean over seeds.

    A mean has `against` if there is a baseline, and that of the reference has `against_models`.
    """
    for (protocol, model, data), entries in results.items():
        yield from ({key: value for key, value in entry.items() if key != "_rows"} for entry in entries)
        mean = summarize_seeds(entries)
        protocol_entries = results.get((baseline or "", model, data), [])
        if protocol != baseline and {e["seed"] for e in entries} & {e["seed"] for e in protocol_entries}:
            mean["against"] = compare_protocols(entries, protocol_entries)
        if model == reference:
            mean["against_models"] = [
                compare_models(entries, others)
                for (other_protocol, other, other_data), others in results.items()
                if (other_protocol, other_data) == (protocol, data) and other != model
            ]
        yield mean


def table(results: list[Result]) -> Table:
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
    """Return a difference with its interval, in percentage points."""
    if against is None:
        return ""
    low, high = against["interval"]
    return f"{100 * against['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def means_by_model(results: list[Result]) -> dict[tuple[str, str], dict[str, Result]]:
    """Return the means over seeds by protocol and model, and then by data; the baselines come first."""
    means = [entry for entry in results if entry["seed"] == "mean"]
    order = {name: number for number, name in enumerate(BASELINES)}
    means.sort(key=lambda entry: (entry["protocol"], order.get(entry["model"], len(order)), entry["model"]))
    by_model: dict[tuple[str, str], dict[str, Result]] = {}
    for entry in means:
        by_model.setdefault((entry["protocol"], entry["model"]), {})[entry["data"]] = entry
    return by_model


def accuracy_table(results: list[Result]) -> Table:
    """Return the accuracies with a column per data set."""
    by_model = means_by_model(results)
    columns = list(dict.fromkeys(data for means in by_model.values() for data in means))
    rows: Table = [["protocol", "model", *columns]]
    for (protocol, model), means in by_model.items():
        rows.append([protocol, model, *(describe_accuracy(means.get(data)) for data in columns)])
    return rows


def describe_accuracy(mean: Result | None) -> str:
    """Return an accuracy with its interval, and the number of seeds if there are several."""
    if mean is None:
        return ""
    low, high = mean["interval"]
    seeds = f", {mean['seeds']} seeds" if mean["seeds"] > 1 else ""
    return f"{mean['accuracy']:.2%} [{low:.2%}, {high:.2%}]{seeds}"


def seeds_table(results: list[Result]) -> Table:
    """Return each seed of the models that were trained with several."""
    rows: Table = [["protocol", "model", "data", "seed", "accuracy", "nll", "ECE"]]
    several = {
        (entry["protocol"], entry["model"], entry["data"])
        for entry in results
        if entry["seed"] == "mean" and entry["seeds"] > 1
    }
    for entry in results:
        if entry["seed"] != "mean" and (entry["protocol"], entry["model"], entry["data"]) in several:
            low, high = entry["interval"]
            accuracy = f"{entry['accuracy']:.2%} [{low:.2%}, {high:.2%}]"
            rows.append(
                [entry["protocol"], entry["model"], entry["data"], str(entry["seed"]), accuracy]
                + [f"{entry[key]:.4f}" for key in ("nll", "ece")]
            )
    return rows


def difference_table(results: list[Result]) -> Table:
    """Return how much more accurate the reference is than each other model, with p-values adjusted for all rows."""
    rows: Table = [["protocol", "data", "reference", "other model", "difference", "p (Holm)"]]
    pairs = [(entry, other) for entry in results for other in entry.get("against_models", ())]
    adjusted = holm_adjust([other["p_value"] for _, other in pairs])
    for (entry, other), p in zip(pairs, adjusted, strict=True):
        names = [entry["protocol"], entry["data"], entry["model"], other["model"]]
        rows.append([*names, describe_difference(other), p_value(p)])
    return rows


def cost_table(results: list[Result]) -> Table:
    """Return what training and scoring cost, as means over seeds."""
    rows: Table = [
        ["protocol", "model", "trained parameters", "seconds of training", "peak GB", "data", "rows scored per second"]
    ]
    for (protocol, model), means in means_by_model(results).items():
        for data, mean in means.items():
            if mean["rows_per_second"] is not None:
                trained = [
                    "" if mean[key] is None else f"{mean[key] / unit:{form}}"
                    for key, unit, form in (
                        ("trainable_parameters", 1, ",.0f"),
                        ("train_seconds", 1, ",.0f"),
                        ("peak_memory_bytes", 1e9, ".2f"),
                    )
                ]
                rows.append([protocol, model, *trained, data, f"{mean['rows_per_second']:.1f}"])
    return rows


def gguf_table(results: list[Result]) -> Table:
    """Return how far exported files agree with their adapters."""
    rows: Table = [["model", "data", "accuracy", "agreement with the adapter", "largest change of a probability"]]
    for (_, model), means in means_by_model(results).items():
        for data, mean in means.items():
            if mean["agreement"] is not None:
                change = f"{mean['largest_probability_change']:.4f}"
                rows.append([model, data, describe_accuracy(mean), f"{mean['agreement']:.2%}", change])
    return rows


def main() -> None:
    """Read the runs and write their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with PROTOCOL/MODEL/RUN")
    comparison = parser.add_mutually_exclusive_group()
    comparison.add_argument("--baseline", metavar="PROTOCOL", help="the protocol to compare the others with")
    comparison.add_argument("--reference", metavar="MODEL", help="the model to compare with every other one")
    add_out_flag(parser)
    arguments = parser.parse_args()
    results = read_runs(arguments.folder, with_baselines=arguments.reference is not None)
    if not results:
        parser.error(f"{arguments.folder} has no evaluated runs: expected PROTOCOL/MODEL/RUN/eval/adapter")
    if kept := add_kept(results, arguments.out):
        print(f"{kept} results of earlier runs are kept.\n")
    if arguments.baseline and arguments.baseline not in {protocol for protocol, _, _ in results}:
        parser.error(f"{arguments.folder} has no protocol {arguments.baseline}")
    if arguments.reference and arguments.reference not in {model for _, model, _ in results}:
        parser.error(f"{arguments.folder} has no model {arguments.reference}")
    entries = list(make_entries(results, arguments.baseline, arguments.reference))
    tables = (
        (accuracy_table, seeds_table, difference_table, gguf_table, cost_table, table)
        if arguments.reference
        else (table,)
    )
    report("Results of trained runs", entries, arguments.out, *tables)
    save_rows(arguments.out, results)


if __name__ == "__main__":
    main()
