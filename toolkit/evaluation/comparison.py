"""Comparison of evaluations of the same rows: paired tests, agreement, and the rows on which predictions differ."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from toolkit.errors import RunError
from toolkit.evaluation.intervals import percentile_interval, resample_groups, sum_by_group, wilson_interval
from toolkit.evaluation.prediction_files import EvaluatedRows, check_same_rows, differing_rows, read_evaluation
from toolkit.recipe.inputs import NLI_INPUTS, name_texts
from toolkit.runs.run_paths import check_no_links, check_not_run_file, check_writable
from toolkit.utils.atomic_io import atomic_path, write_json
from toolkit.utils.terminal import escape_control_characters

_OUTPUT_FILES = ("compare.json", "differences.jsonl")
_RESAMPLES = 10_000
_MAX_NAME_BYTES = 120
_OUTPUT_HINT = "Choose another folder with output=DIR."


@dataclass(frozen=True)
class PairedTest:
    """A paired test of two evaluations of the same rows.

    Args:
        a: The name of the first evaluation.
        b: The name of the second evaluation.
        both_right: The number of rows that both got right.
        only_a_right: The number of rows that only a got right.
        only_b_right: The number of rows that only b got right.
        both_wrong: The number of rows that both got wrong.
        mcnemar_p: The p-value of McNemar's exact test, which assumes that rows are independent.
        difference: The accuracy of a minus that of b.
        difference_ci95: A 95% interval of the difference, from a bootstrap that resamples groups of rows.
    """

    a: str
    b: str
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    mcnemar_p: float
    difference: float
    difference_ci95: tuple[float, float]


def mcnemar_exact(only_a_right: int, only_b_right: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    The null hypothesis is that a row which only one of the two models got right is equally likely to be either's
    (McNemar 1947, Psychometrika 12, 153, with the binomial distribution in place of chi-squared). The p-value is 1 if
    there is no such row.
    """
    discordant = only_a_right + only_b_right
    return float(binomtest(only_a_right, discordant, 0.5).pvalue) if discordant else 1.0


def compare_pair(a: EvaluatedRows, b: EvaluatedRows, groups: np.ndarray, *, seed: int = 0) -> PairedTest:
    """Compare the accuracies of two evaluations.

    Args:
        a: The first evaluation.
        b: The second evaluation, of the same rows.
        groups: [rows], the index of each row's group. A single group gives the interval [-1, 1], because it
            carries no information about other groups.
        seed: The seed of the bootstrap.
    """
    a_correct, b_correct = a.correct, b.correct
    # Codes of a row: 0 both wrong, 1 only b right, 2 only a right, 3 both right.
    counts = np.bincount(2 * a_correct + b_correct, minlength=4)
    # The second column counts the rows of a group. Groups differ in size, so each resample has its own number of rows.
    columns = np.stack([a_correct.astype(float) - b_correct, np.ones(len(a_correct))], axis=1)
    interval = (-1.0, 1.0)
    if groups.max() > 0:
        resampled = resample_groups(sum_by_group(groups, columns), seed=seed, resamples=_RESAMPLES)
        interval = percentile_interval(resampled[:, 0] / resampled[:, 1])
    return PairedTest(
        a=a.name,
        b=b.name,
        both_right=int(counts[3]),
        only_a_right=int(counts[2]),
        only_b_right=int(counts[1]),
        both_wrong=int(counts[0]),
        mcnemar_p=mcnemar_exact(int(counts[2]), int(counts[1])),
        difference=float(columns[:, 0].mean()),
        difference_ci95=interval,
    )


@dataclass(frozen=True)
class Comparison:
    """A comparison of evaluations of the same rows.

    Args:
        folder: The folder with compare.json and differences.jsonl.
        record: The contents of compare.json.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def pairs(self) -> list[PairedTest]:
        """A paired test for each pair of evaluations."""
        return [
            PairedTest(**{**pair, "difference_ci95": tuple(pair["difference_ci95"])}) for pair in self.record["pairs"]
        ]

    @property
    def names(self) -> list[str]:
        """The names of the evaluations, in the order given."""
        return [evaluation["name"] for evaluation in self.record["evaluations"]]

    @property
    def agreement(self) -> np.ndarray:
        """The share of rows with the same prediction, [evaluations, evaluations]."""
        return np.array(self.record["agreement"])

    @property
    def differing_rows(self) -> int:
        """The number of rows on which the predictions differ."""
        return int(self.record["differing_rows"])

    def report(self) -> str:
        """Return the comparison as text for a terminal."""
        return comparison_report(self.record)


def compare(folders: Sequence[Path], output: Path | None = None) -> Comparison:
    """Compare evaluations and write compare.json and differences.jsonl, the rows on which predictions differ.

    Args:
        folders: The folders of at least two evaluations of the same rows.
        output: The folder to write; default: `<run of the first>/compare/<names>`.

    Raises:
        ToolkitError: If a folder is not an evaluation, the rows differ, or `output` holds something other than an
            earlier comparison.
    """
    if len(folders) < 2:
        raise RunError("A comparison needs at least two evaluations.", hint="Give two or more.")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RunError("The same evaluation is given twice.", hint="Give each folder once.")
    if output is None:
        output = default_output(folders)
        check_no_links([output.parent])  # `compare/` of the run
    check_no_links([output])
    check_not_run_file(output, hint=_OUTPUT_HINT, allowed=("compare",))
    check_writable(output, hint=_OUTPUT_HINT)
    _check_output(output)  # before the predictions are read, which takes time for a million rows
    evaluations = _with_distinct_names([read_evaluation(folder) for folder in folders])
    for evaluation in evaluations[1:]:
        check_same_rows(evaluations[0], evaluation)
    first = evaluations[0]
    # Hashes differ between processes and so does the order of groups, but the bootstrap does not depend on that order.
    distinct_groups, groups = np.unique(first.group_hashes, return_inverse=True)
    predicted = np.stack([evaluation.predicted for evaluation in evaluations])
    differing = (predicted != predicted[0]).any(axis=0)
    record = {
        "rows": len(first.row_hashes),
        **_record_groups(first.inputs, len(distinct_groups)),
        "labels": first.metrics["labels"],
        "evaluations": [_summarize(evaluation) for evaluation in evaluations],
        "pairs": [asdict(compare_pair(a, b, groups)) for a, b in combinations(evaluations, 2)],
        "agreement": [[float((a == b).mean()) for b in predicted] for a in predicted],
        "differing_rows": int(differing.sum()),
    }
    _write(output, record, evaluations, differing)
    return Comparison(output, record)


def _record_groups(inputs: tuple[str, ...], groups: int) -> dict[str, Any]:
    if inputs == NLI_INPUTS:
        return {"premise_groups": groups}
    return {"inputs": list(inputs), "groups": groups}


def _with_distinct_names(evaluations: Sequence[EvaluatedRows]) -> list[EvaluatedRows]:
    """Name evaluations by their full paths if two runs in different folders have the same name."""
    if len({evaluation.name for evaluation in evaluations}) == len(evaluations):
        return list(evaluations)
    return [replace(evaluation, name=str(evaluation.folder.resolve())) for evaluation in evaluations]


def _summarize(evaluation: EvaluatedRows) -> dict[str, Any]:
    correct = int(evaluation.correct.sum())
    return {
        "name": evaluation.name,
        "folder": str(evaluation.folder.resolve()),
        "model": evaluation.metrics.get("model"),
        "mode": evaluation.metrics.get("mode"),
        "shots": evaluation.metrics.get("shots", 0),
        "accuracy": correct / len(evaluation.row_hashes),
        "accuracy_ci95": list(wilson_interval(correct, len(evaluation.row_hashes))),
    }


def default_output(folders: Sequence[Path]) -> Path:
    """Return `<run of the first>/compare/<names>`, with evaluations of other runs prefixed by the run's name."""
    first, *other_folders = (folder.resolve() for folder in folders)
    names = [first.name]
    for folder in other_folders:
        is_same_run = folder.parent == first.parent
        names.append(folder.name if is_same_run else f"{folder.parent.parent.name}_{folder.name}")
    name = "--".join(names)
    # Shortened or repeated names would give different comparisons the same folder.
    if len(name.encode()) > _MAX_NAME_BYTES or len(set(names)) < len(names):
        digest = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:8]
        name = f"{name.encode()[:_MAX_NAME_BYTES].decode(errors='ignore')}-{digest}"
    return first.parent.parent / "compare" / name


def _check_output(output: Path) -> None:
    if not output.exists():
        return
    file_names = {path.name for path in output.iterdir()} if output.is_dir() else {""}
    if file_names and ("compare.json" not in file_names or file_names - set(_OUTPUT_FILES)):
        raise RunError(
            f"{output} contains something other than an earlier comparison, so it is not overwritten.",
            hint=_OUTPUT_HINT,
        )


def _write(output: Path, record: dict[str, Any], evaluations: Sequence[EvaluatedRows], differing: np.ndarray) -> None:
    with atomic_path(output) as partial:
        partial.mkdir(parents=True)
        write_json(partial / "compare.json", record)
        with (partial / "differences.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in differing_rows(evaluations, differing):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _describe_groups(record: dict[str, Any]) -> str:
    if "premise_groups" in record:
        return f"{record['premise_groups']:,} premises"
    return f"{record['groups']:,} {name_texts(record['inputs'][0])}"


def comparison_report(record: dict[str, Any]) -> str:
    """Return a comparison as text for a terminal."""
    names = [evaluation["name"] for evaluation in record["evaluations"]]
    width = max(map(len, names))
    lines = [f"{record['rows']:,} rows of {_describe_groups(record)}\n"]
    for evaluation in record["evaluations"]:
        low, high = evaluation["accuracy_ci95"]
        lines.append(f"{evaluation['name']:<{width}}  {evaluation['accuracy']:.2%} [{low:.2%}, {high:.2%}]")
    for pair in record["pairs"]:
        low, high = pair["difference_ci95"]
        lines += [
            f"\n{pair['a']} minus {pair['b']}: {pair['difference']:+.2%} [{low:+.2%}, {high:+.2%}]",
            f"  rows right: only the first {pair['only_a_right']:,}, only the second {pair['only_b_right']:,}, "
            f"both {pair['both_right']:,}, neither {pair['both_wrong']:,}; "
            f"McNemar's exact test: p = {pair['mcnemar_p']:.3g}",
        ]
    if len(record["pairs"]) > 1:
        lines.append(f"\nThe {len(record['pairs'])} p-values are not corrected for multiple comparisons.")
    lines.append("\nshare of rows with the same prediction")
    for name, shares in zip(names, record["agreement"], strict=True):
        lines.append(f"{name:<{width}}  " + "  ".join(f"{share:>7.2%}" for share in shares))
    lines.append(f"\n{record['differing_rows']:,} rows have different predictions")
    return escape_control_characters("\n".join(lines))
