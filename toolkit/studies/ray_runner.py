"""Execution of a study's cells on a Ray cluster, where each cell is a task."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.distributed.ray_cluster import connect, count_workers, worker_resources
from toolkit.errors import EXIT_INTERRUPTED
from toolkit.studies.cells import Cell
from toolkit.studies.runner import CellRunner, start_cell
from toolkit.studies.study_folder import StudyFolder, cell_specification

_RETRIES = 5
"""How often a cell is started again after its node has died. It resumes from its latest checkpoint."""


def run_on_node(folder: str, name: str, specification: str, threads: int) -> int:
    """Run a cell on this node until it ends, and return its exit code. Ray calls this function as a task."""
    process = start_cell(Path(folder), name, specification, threads)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Ray cancels a task in this way
        process.send_signal(signal.SIGTERM)
        return process.wait()


class RemoteCell:
    """A cell that runs as a Ray task.

    Args:
        ray: Ray.
        task: The reference of the task's result.
    """

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

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
        except self._ray.exceptions.RayError:  # the node has died too often; the log has the reason
            return 1

    def send_signal(self, number: int, /) -> None:
        """Cancel the task: in order with SIGTERM, at once with SIGKILL."""
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

    def _threads(self) -> int:
        return int(self._resources.get("num_cpus", 1))

    def _start(self, cell: Cell, threads: int) -> RemoteCell:
        task = self._ray.remote(run_on_node).options(max_retries=_RETRIES, **self._resources)
        arguments = (str(self.folder.path), cell.name, cell_specification(cell), threads)
        return RemoteCell(self._ray, task.remote(*arguments))
