"""Execution of a study's cells on a Ray cluster, where each cell is a task."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.distributed.ray_cluster import WORKER_CORES, connect, count_workers, worker_resources
from toolkit.errors import EXIT_FAILURE, EXIT_INTERRUPTED
from toolkit.studies.cells import Cell
from toolkit.studies.runner import CellRunner, poll, start_cell
from toolkit.studies.study_folder import StudyFolder, cell_specification

_RETRIES = 5
"""The number of times that a cell is started again after its node has died. It resumes from its latest checkpoint."""


def run_on_node(folder: str, name: str, specification: str, threads: int) -> int:
    """Run a cell on this node until it ends, and return its exit code. Ray calls this function as a task."""
    process = start_cell(Path(folder), name, specification, threads)
    try:
        # Wait in short steps: Ray cancels a task with a KeyboardInterrupt, which Python raises only between two waits.
        while (code := poll(process)) is None:
            pass
        return code
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        return process.wait()


class RemoteCell:
    """A cell that runs as a Ray task.

    Args:
        ray: Ray.
        task: The reference of the task's result.
        log: The file with the output of the cell. An error of the task itself is appended to it.
    """

    def __init__(self, ray: Any, task: Any, log: Path) -> None:
        self._ray, self._task, self._log = ray, task, log

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code of the cell.

        Raises:
            TimeoutExpired: If it is still running.
        """
        ready, _ = self._ray.wait([self._task], timeout=timeout)
        if not ready:
            raise subprocess.TimeoutExpired("cell", timeout or 0)
        try:
            return int(self._ray.get(self._task))
        except self._ray.exceptions.TaskCancelledError:
            return EXIT_INTERRUPTED
        except self._ray.exceptions.RayError as error:  # e.g. a node that has died too often, or lacks the folder
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{error}\n")
            return EXIT_FAILURE

    def send_signal(self, number: int, /) -> None:
        """Cancel the task: gracefully with SIGTERM, immediately with SIGKILL."""
        self._ray.cancel(self._task, force=number == signal.SIGKILL)


class RayRunner(CellRunner):
    """A runner of cells on a Ray cluster. All nodes must share the folder of the study, the data and the models.

    Args:
        folder: The folder of the study.
        address: The cluster, see `distributed.ray_cluster.connect`.
    """

    def __init__(self, folder: StudyFolder, address: str) -> None:
        self._ray = connect(address)
        self._resources = worker_resources(self._ray)
        super().__init__(StudyFolder(folder.path.absolute()), count_workers(self._ray, self._resources))

    def run(self, cells: Sequence[Cell]) -> None:
        """Run cells until each is completed or has failed; Ray decides when and where."""
        self.jobs = max(1, len(cells))
        super().run(cells)

    def _share_of_cores(self) -> int:
        return int(self._resources.get("num_cpus", WORKER_CORES))

    def _start(self, cell: Cell, threads: int) -> RemoteCell:
        task = self._ray.remote(run_on_node).options(max_retries=_RETRIES, **self._resources)
        arguments = (str(self.folder.path), cell.name, cell_specification(cell), threads)
        return RemoteCell(self._ray, task.remote(*arguments), self.folder.log(cell.name))
