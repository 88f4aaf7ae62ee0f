"""The learning curve of a study: accuracy by training set size, and what a power law predicts for the largest size.

python benchmarks/learning_curve.py outputs/studies/learning_curve --out benchmarks/results/learning-curve

The first argument is the folder of a study with at least four sizes, exactly one variant and exactly one evaluation,
see docs/studies.md. The law that predicts the largest size is fitted without it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from side_by_side import Table, add_out_flag, report

_FIELDS = (
    "variant", "seeds", "n", "accuracy", "interval", "standard_deviation", "accuracy_by_seed", "nll", "ece",
    "train_seconds",
)  # fmt: skip


def read_curve(study: Path) -> dict[str, Any]:
    """Return the results of a study by size, and its curve with the fitted law."""
    record = json.loads((study / "study.json").read_text(encoding="utf-8"))
    (curve,) = record["learning_curves"]
    sizes = [entry for entry in record["results"] if entry["train_size"] is not None]
    return {
        "curve": curve,
        "sizes": [{"rows": round(entry["trained_rows"]), **{key: entry[key] for key in _FIELDS}} for entry in sizes],
    }


def table(result: dict[str, Any]) -> Table:
    """Return the measured accuracy of each size, and those that the fitted laws predict."""
    curve = result["curve"]
    rows: Table = [["training rows", "seeds", "accuracy", "deviation", "nll", "ECE", "predicted accuracy"]]
    for entry in result["sizes"]:
        low, high = entry["interval"]
        rows.append(
            [
                f"{entry['rows']:,}",
                str(len(entry["seeds"])),
                f"{entry['accuracy']:.2%} [{low:.2%}, {high:.2%}]",
                "" if entry["standard_deviation"] is None else f"{entry['standard_deviation']:.2%}",
                f"{entry['nll']:.4f}",
                f"{entry['ece']:.4f}",
                "",
            ]
        )
    rows[-1][-1] = f"{curve['predicted_largest']:.2%} from the smaller sizes"
    low, high = curve["predicted_tenfold_interval"]
    tenfold = f"{curve['predicted_tenfold']:.2%} [{low:.2%}, {high:.2%}]"
    return [*rows, [f"{10 * curve['sizes'][-1]:,.0f}", "", "not measured", "", "", "", tenfold]]


def main() -> None:
    """Read the study and write its curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of a study")
    add_out_flag(parser)
    arguments = parser.parse_args()
    record = json.loads((arguments.study / "study.json").read_text(encoding="utf-8"))
    if [curve["predicted_largest"] is not None for curve in record["learning_curves"]] != [True]:
        parser.error(f"{arguments.study} needs one variant, one evaluation and at least four finished sizes")
    report("Learning curve of a study", read_curve(arguments.study), arguments.out, table)


if __name__ == "__main__":
    main()
