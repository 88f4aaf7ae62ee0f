"""Accuracy by label, length, negation and lexical overlap, for evaluations of French NLI over seeds.

python benchmarks/phenomena.py outputs/nli_fr/eval/adapter --out benchmarks/results/phenomena

Each argument is the folder of an evaluation. All have the same rows, and the accuracy of a row is the share of the
evaluations that predict it correctly. Intervals are bootstrapped over groups of rows, see runs.py. Lengths and overlaps
are divided into three parts with about the same number of rows.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from toolkit.evaluation.seeds import group_interval
from side_by_side import Table, add_out_flag, report

# "plus" and "personne" are left out: without their context, they are more often "more" and "person".
NEGATIONS = frozenset(["ne", "n", "pas", "jamais", "rien", "aucun", "aucune", "sans", "ni", "non", "nul", "nulle"])


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; `n'` is the word n."""
    return re.findall(r"\w+", text.lower())


def lexical_overlap(premise: str, hypothesis: str) -> float:
    """Return the share of the hypothesis's distinct words that are also in the premise."""
    distinct = set(words(hypothesis))
    return len(distinct & set(words(premise))) / max(1, len(distinct))


def terciles(name: str, values: Sequence[float], unit: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the rows, [rows] bool, of each third of the values; equal values are in the same third."""
    numbers = np.asarray(values)
    low, high = np.quantile(numbers, [1 / 3, 2 / 3], method="inverted_cdf")
    for text, selected in (
        (f"up to {low:.3g}", numbers <= low),
        (f"more than {low:.3g} and up to {high:.3g}", (numbers > low) & (numbers <= high)),
        (f"more than {high:.3g}", numbers > high),
    ):
        yield f"{name}: {text}{unit}", selected


def phenomena(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the rows, [rows] bool, of each phenomenon."""
    labels = np.array([row["label"] for row in rows])
    negated = np.array([not NEGATIONS.isdisjoint(words(row["hypothesis"])) for row in rows])
    overlaps = [100 * lexical_overlap(row["premise"], row["hypothesis"]) for row in rows]
    lengths = [len(words(row["hypothesis"])) for row in rows]
    premise_lengths = [len(words(row["premise"])) for row in rows]
    for label in sorted(set(labels)):
        yield f"label: {label}", labels == label
    yield from terciles("premise", premise_lengths, " words")
    yield from terciles("hypothesis", lengths, " words")
    for part, in_part in terciles("words of the hypothesis in the premise", overlaps, "%"):
        yield part, in_part
        for label in sorted(set(labels)):
            yield f"{part}, {label}", in_part & (labels == label)
    for part, in_part in (("hypothesis with a negation", negated), ("hypothesis without a negation", ~negated)):
        yield part, in_part
        for label in sorted(set(labels)):
            yield f"{part}, {label}", in_part & (labels == label)


def measure(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the number of rows, the mean accuracy and its interval for each phenomenon."""
    from toolkit.evaluation.prediction_files import check_same_rows, read_evaluation

    evaluations = [read_evaluation(folder) for folder in folders]
    for other in evaluations[1:]:
        check_same_rows(evaluations[0], other)
    correct = np.mean([evaluation.correct for evaluation in evaluations], axis=0)
    groups = np.unique(evaluations[0].group_hashes, return_inverse=True)[1]
    # Read by line, because str.splitlines would also split at U+2028.
    with (folders[0] / "predictions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        {
            "phenomenon": name,
            "n": int(selected.sum()),
            "accuracy": float(correct[selected].mean()),
            "interval": group_interval(
                correct[selected], np.unique(groups[selected], return_inverse=True)[1], lowest=0.0
            ),
        }
        for name, selected in phenomena(rows)
        if selected.any()
    ]  # fmt: skip


def table(results: list[dict[str, Any]]) -> Table:
    """Return the accuracy on the rows of each phenomenon."""
    rows: Table = [["rows with", "n", "accuracy"]]
    for result in results:
        low, high = result["interval"]
        rows.append([result["phenomenon"], f"{result['n']:,}", f"{result['accuracy']:.1%} [{low:.1%}, {high:.1%}]"])
    return rows


def main() -> None:
    """Measure the accuracy for each phenomenon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", type=Path, nargs="+", metavar="EVAL", help="the folder of an evaluation")
    add_out_flag(parser)
    arguments = parser.parse_args()
    report("Accuracy by phenomenon", measure(arguments.evaluations), arguments.out, table)


if __name__ == "__main__":
    main()
