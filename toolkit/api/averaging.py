"""The Python function that averages the adapters of runs."""

from collections.abc import Sequence
from pathlib import Path

from toolkit.api.arguments import check_output_dir, to_path
from toolkit.api.run import Run, open_run
from toolkit.errors import RunError
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun


def average_runs(
    runs: Sequence[str | Path | Run],
    output_dir: str | Path,
    *,
    overwrite: bool = False,
    accept_changes: bool = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Make a run whose adapter is the average of those of other runs.

    It is often more accurate than each of them, and costs no more to evaluate, because it is a single adapter. Its
    rank is the sum of their ranks, so that it is their exact average.

    Args:
        runs: At least two runs that were trained with the same recipe and different seeds.
        output_dir: The run folder.
        overwrite: Replace an existing run.
        accept_changes: Use files that have changed since they were recorded. The run.json of the average lists the
            changes.
        command: The command line to record in run.json when a script calls this function.

    Raises:
        ToolkitError: If the runs differ in more than their seeds, are not of decoders with LoRA, or have changed.
    """
    if isinstance(runs, (str, Path, Run)) or not isinstance(runs, Sequence):
        raise RunError(f"runs is {runs!r:.60}, which is not a list of runs.", hint="Pass at least two runs in a list.")
    paths = [run.path if isinstance(run, Run) else to_path(run, f"runs[{i}]") for i, run in enumerate(runs)]
    run = RunFolder(to_path(output_dir, "output_dir"))
    if any(path.resolve() == run.path.resolve() for path in paths):
        raise RunError(
            f"{run.path} is one of the runs to average, so it cannot be replaced by the average.",
            hint="Choose another folder with output_dir.",
        )
    check_output_dir(run, overwrite=overwrite)
    trained = [TrainedRun.open(path, accept_changes=accept_changes) for path in paths]
    from toolkit.training.averaging import average_into, check_average

    check_average(trained)
    average_into(trained, run, overwrite=overwrite, command=command)
    return open_run(run.path)
