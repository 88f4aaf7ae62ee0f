"""The comparison of evaluations, from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.api.arguments import to_path
from toolkit.errors import RunError
from toolkit.runs.run_folder import check_is_evaluation

if TYPE_CHECKING:
    from toolkit.evaluation.comparison import Comparison
    from toolkit.evaluation.evaluation import Evaluation


def compare(evaluations: "Sequence[Evaluation | str | Path]", output: str | Path | None = None) -> "Comparison":
    """Compare evaluations of the same rows: paired tests, agreement, and the rows that differ.

    Args:
        evaluations: results of `Run.evaluate`, or their folders; at least two.
        output: the folder of compare.json and differences.jsonl; default: `<run of the first>/compare/<names>`.

    Raises:
        ToolkitError: a folder is not an evaluation, the rows are not the same, or `output` holds something else.
    """
    if isinstance(evaluations, (str, Path)):
        raise RunError(f"A single evaluation was given, {evaluations}.", hint="Give a list of two or more.")
    folders = [to_path(getattr(given, "folder", given), "an evaluation") for given in evaluations]
    for folder in folders:
        check_is_evaluation(folder)
    from toolkit.evaluation import comparison

    return comparison.compare(folders, None if output is None else to_path(output, "output"))
