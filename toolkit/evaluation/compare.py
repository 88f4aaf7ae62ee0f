"""Evaluations of the same rows side by side: whose answers are better, how sure that is, and where they differ."""

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
from toolkit.evaluation.prediction_files import EvaluatedRows, differing_rows, read_evaluation, refuse_other_rows
from toolkit.files import atomic_path, write_json
from toolkit.visible_text import visible

_FILES = ("compare.json", "differences.jsonl")
_RESAMPLES = 10_000
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Pair:
    """Two evaluations on the same rows.

    `difference` is a's accuracy less b's, its interval a bootstrap that resamples premises; `mcnemar_p` is of
    McNemar's exact test, which takes rows to be independent.
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
    """Two-sided p of McNemar's exact test: of the rows that one of two got right, each was as likely to.

    McNemar 1947 (Psychometrika 12, 153), with the binomial distribution in place of chi-squared; 1 where no row tells
    the two apart.
    """
    discordant = only_a_right + only_b_right
    return float(binomtest(only_a_right, discordant, 0.5).pvalue) if discordant else 1.0


def compare_pair(a: EvaluatedRows, b: EvaluatedRows, groups: np.ndarray, *, seed: int = 0) -> Pair:
    """Count, test and resample two evaluations.

    Args:
        a: the one.
        b: the other, of the same rows.
        groups: [rows], the premise of each, counted from 0. A single one tells nothing about others: -1 to 1.
        seed: of the bootstrap.
    """
    right, other = a.correct, b.correct
    counts = np.bincount(2 * right + other, minlength=4)
    columns = np.stack([right.astype(float) - other, np.ones(len(right))], axis=1)
    interval = (-1.0, 1.0)
    if groups.max() > 0:
        drawn = resample_groups(sum_by_group(groups, columns), seed=seed, resamples=_RESAMPLES)
        interval = percentile_interval(drawn[:, 0] / drawn[:, 1])
    return Pair(
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


def compare(folders: Sequence[Path], output: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Compare evaluations and write compare.json and differences.jsonl, the rows on which predictions differ.

    Args:
        folders: at least two evaluations of the same rows.
        output: where to; default: `<run of the first>/compare/<names>`.

    Returns:
        What compare.json holds, and the folder.

    Raises:
        ToolkitError: a folder is no evaluation, the rows are not the same, or `output` holds something else.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RunError("An evaluation is given twice.", hint="Give each folder once.")
    output = output or default_output(folders)
    _refuse_if_taken(output)
    evaluations = _with_distinct_names([read_evaluation(folder) for folder in folders])
    for other in evaluations[1:]:
        refuse_other_rows(evaluations[0], other)
    first = evaluations[0]
    premises, groups = np.unique(first.premises, return_inverse=True)
    predicted = np.stack([one.predicted for one in evaluations])
    differing = (predicted != predicted[0]).any(axis=0)
    result = {
        "rows": len(first.rows),
        "premise_groups": len(premises),
        "labels": first.metrics["labels"],
        "evaluations": [_summary(one) for one in evaluations],
        "pairs": [asdict(compare_pair(a, b, groups)) for a, b in combinations(evaluations, 2)],
        "agreement": [[float((a == b).mean()) for b in predicted] for a in predicted],
        "differing_rows": int(differing.sum()),
    }
    _write(output, result, evaluations, differing)
    return result, output


def _with_distinct_names(evaluations: Sequence[EvaluatedRows]) -> list[EvaluatedRows]:
    """As they are; runs of one name in two places are told apart by their whole paths."""
    if len({one.name for one in evaluations}) == len(evaluations):
        return list(evaluations)
    return [replace(one, name=str(one.folder.resolve())) for one in evaluations]


def _summary(one: EvaluatedRows) -> dict[str, Any]:
    correct = int(one.correct.sum())
    return {
        "name": one.name,
        "folder": str(one.folder.resolve()),
        "model": one.metrics.get("model"),
        "mode": one.metrics.get("mode"),
        "shots": one.metrics.get("shots", 0),
        "accuracy": correct / len(one.rows),
        "accuracy_ci95": list(wilson_interval(correct, len(one.rows))),
    }


def default_output(folders: Sequence[Path]) -> Path:
    """`<run of the first>/compare/<names>`; an evaluation of another run has the run's name before its own."""
    first, *others = (folder.resolve() for folder in folders)
    names = [first.name]
    for other in others:
        is_same_run = other.parent == first.parent
        names.append(other.name if is_same_run else f"{other.parent.parent.name}_{other.name}")
    name = "--".join(names)
    if len(name) > _LONGEST_NAME or len(set(names)) < len(names):  # then names alone do not tell comparisons apart
        digest = hashlib.sha256("\n".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:8]
        name = f"{name[:_LONGEST_NAME]}-{digest}"
    return first.parent.parent / "compare" / name


def _refuse_if_taken(output: Path) -> None:
    if not output.exists() and not output.is_symlink():
        return
    held = {path.name for path in output.iterdir()} if output.is_dir() and not output.is_symlink() else {""}
    if held and ("compare.json" not in held or held - set(_FILES)):
        raise RunError(
            f"{output} holds something else than a former comparison, so it is not overwritten.",
            hint="Give another folder with --output.",
        )


def _write(output: Path, result: dict[str, Any], evaluations: Sequence[EvaluatedRows], differing: np.ndarray) -> None:
    with atomic_path(output) as partial:
        partial.mkdir(parents=True)
        write_json(partial / "compare.json", result)
        with (partial / "differences.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for row in differing_rows(evaluations, differing):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def comparison_report(result: dict[str, Any]) -> str:
    """A comparison as text for a terminal."""
    names = [one["name"] for one in result["evaluations"]]
    width = max(map(len, names))
    lines = [f"{result['rows']:,} rows of {result['premise_groups']:,} premises\n"]
    for one in result["evaluations"]:
        low, high = one["accuracy_ci95"]
        lines.append(f"{one['name']:<{width}}  {one['accuracy']:.2%} [{low:.2%}, {high:.2%}]")
    for pair in result["pairs"]:
        low, high = pair["difference_ci95"]
        lines += [
            f"\n{pair['a']} less {pair['b']}: {pair['difference']:+.2%} [{low:+.2%}, {high:+.2%}]",
            f"  right alone {pair['only_a_right']:,} and {pair['only_b_right']:,}, both {pair['both_right']:,}, "
            f"neither {pair['both_wrong']:,}; McNemar's exact test p = {pair['mcnemar_p']:.3g}",
        ]
    if len(result["pairs"]) > 1:
        lines.append(f"\nThe p of {len(result['pairs'])} pairs are not corrected for their number.")
    lines.append("\nshare of rows with the same prediction")
    for name, row in zip(names, result["agreement"], strict=True):
        lines.append(f"{name:<{width}}  " + "  ".join(f"{share:>7.2%}" for share in row))
    lines.append(f"\n{result['differing_rows']:,} rows have different predictions")
    return visible("\n".join(lines))
