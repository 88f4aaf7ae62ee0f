"""Execution of a study's cells in separate processes, several at a time."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from toolkit.errors import EXIT_INTERRUPTED
from toolkit.studies.cells import Cell
from toolkit.studies.study_folder import StudyFolder, cell_specification
from toolkit.utils.progress import progress_bar

logger = logging.getLogger(__name__)

_MODULE = "toolkit.cli.study_cell"


class CellProcess(Protocol):
    """The process of a cell, on this machine or another one."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or raise TimeoutExpired."""

    def send_signal(self, number: int, /) -> None:
        """Stop the process: gracefully with SIGTERM, immediately with SIGKILL."""


def poll(process: CellProcess) -> int | None:
    """Return the exit code of a process, or None if it is still running after a second."""
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return None


def _python_path() -> str:
    """Return PYTHONPATH with this package first: a Ray worker can have found it on the driver's path."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def start_cell(folder: Path, name: str, specification: str, threads: int) -> "subprocess.Popen[str]":
    """Start the process of a cell on this machine.

    Args:
        folder: The folder of the study.
        name: The name of the cell.
        specification: The cell, see `cell_specification`.
        threads: The number of CPU threads.
    """
    with StudyFolder(folder).log(name).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": _python_path()},
            start_new_session=True,  # Ctrl-C reaches only this process, which shuts the others down cleanly
        )
    with suppress(BrokenPipeError):
        process.stdin.write(specification + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    return process


class CellRunner:
    """A runner of cells on this machine.

    Args:
        folder: The folder of the study.
        jobs: The number of cells that run at a time. They share CPU cores, memory and GPU.
    """

    def __init__(self, folder: StudyFolder, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._processes: dict[str, CellProcess] = {}
        self._is_stopping = False

    def run(self, cells: Sequence[Cell]) -> None:
        """Run cells until each is completed or has failed.

        Cells that are completed already are kept. On Ctrl-C, running cells save a checkpoint and stop.

        Raises:
            KeyboardInterrupt: On Ctrl-C or SIGTERM, when all cells have stopped.
        """
        with (
            ThreadPoolExecutor(self.jobs) as executor,
            progress_bar(desc="cells", total=len(cells), unit="cell") as bar,
            self.stop_cells_on_error(),
        ):
            waiting: set[Future[str]] = {executor.submit(self.run_cell, cell) for cell in cells}
            # In short waits, because Python handles Ctrl-C only between two waits of the main thread.
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    message = future.result()
                    bar.update()
                    if message:
                        logger.info("%s", message)

    def run_cell(self, cell: Cell, should_prune: Callable[[], bool] = lambda: False) -> str:
        """Run a cell in a process, and return a message about the result; "" if there was nothing to run.

        Args:
            cell: The cell.
            should_prune: A function that is called every second. If it returns True, the cell is stopped and pruned.
        """
        folder, name = self.folder, cell.name
        state = folder.state(name)
        if self._is_stopping or state.status == "pruned" or self._is_completed(cell):
            return ""
        # Only at the first start: a run can only be resumed with the same number of threads.
        state.threads = state.threads or self._threads()
        folder.save_state(name, state)
        process = self._processes[name] = self._start(cell, state.threads)
        if self._is_stopping:  # a signal between the check above and this line has missed the process
            process.send_signal(signal.SIGTERM)
        is_pruned = False
        while (code := poll(process)) is None:
            if not is_pruned and should_prune():
                is_pruned = True
                process.send_signal(signal.SIGTERM)
        self._processes.pop(name, None)
        if is_pruned and code == EXIT_INTERRUPTED:
            folder.save_state(name, replace(folder.state(name), status="pruned"))
            return f"{name}  stopped, because other trials were better at the same step"
        return self._describe_outcome(cell, code)

    def _threads(self) -> int:
        """Return the number of CPU threads of a cell: what the user has set, or an equal share of the cores."""
        if (given := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(given):
            return int(given)
        return self._share_of_cores()

    def _share_of_cores(self) -> int:
        return max(1, len(os.sched_getaffinity(0)) // self.jobs)

    def _start(self, cell: Cell, threads: int) -> CellProcess:
        """Start the process of a cell."""
        return start_cell(self.folder.path, cell.name, cell_specification(cell), threads)

    def _is_completed(self, cell: Cell) -> bool:
        state = self.folder.state(cell.name)
        return (
            state.status == "completed"
            and self.folder.run(cell.name).is_finished
            and all(
                (name := state.evaluations.get(measurement.key)) is not None
                and (self.folder.run(cell.name).eval / name / "metrics.json").is_file()
                for measurement in cell.measurements
            )
        )

    def _describe_outcome(self, cell: Cell, code: int) -> str:
        folder, state = self.folder, self.folder.state(cell.name)
        if self._is_stopping:
            return f"{cell.name}  stopped"
        if code == 0:
            return f"{cell.name}  completed in {state.seconds:,.0f} s"
        if state.status != "failed":  # killed, or a bug
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            reason = "a signal from outside" if code == EXIT_INTERRUPTED else reason
            state.status, state.error, state.hint = (
                "failed",
                f"The process ended with {reason}.",
                f"See {folder.log(cell.name)}.",
            )
            folder.save_state(cell.name, state)
        return f"{cell.name}  failed: {state.error}"

    @contextmanager
    def stop_cells_on_error(self) -> Iterator[None]:
        """Stop all cells if the block ends with an exception, such as Ctrl-C."""
        try:
            yield
        except BaseException:
            self._is_stopping = True
            logger.info("Stopping: running cells save a checkpoint. Press Ctrl-C again to stop immediately.")
            self._signal(signal.SIGTERM)
            try:
                for process in list(self._processes.values()):
                    process.wait()
            except KeyboardInterrupt:
                self._signal(signal.SIGKILL)
            raise

    def _signal(self, number: int) -> None:
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.send_signal(number)
