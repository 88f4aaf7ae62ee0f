"""The Python function that compares evaluations."""

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
        evaluations: Two or more results of `Run.evaluate`, or their folders.
        output: The folder for compare.json and differences.jsonl. The default is
            `<run of the first evaluation>/compare/<names>`.

    Raises:
        ToolkitError: If a folder is not an evaluation, the rows differ, or `output` contains other files.
    """
    if isinstance(evaluations, (str, Path)):
        raise RunError(f"A single evaluation was given: {evaluations}.", hint="Pass a list of two or more.")
    folders = [to_path(getattr(evaluation, "folder", evaluation), "an evaluation") for evaluation in evaluations]
    for folder in folders:
        check_is_evaluation(folder)
    from toolkit.evaluation import comparison  # imports scipy, which the checks above do not need

    return comparison.compare(folders, None if output is None else to_path(output, "output"))
