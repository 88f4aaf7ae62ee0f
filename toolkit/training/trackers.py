"""The experiment trackers Trackio and MLflow, which receive the metrics of each optimizer step and nothing else.

The callbacks of transformers for these trackers also send every training argument and the model's configuration, with
paths of this machine, and Trackio's counts log entries rather than steps. For TensorBoard and Weights & Biases the
toolkit uses the callbacks of transformers.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol
from unittest.mock import patch
from weakref import finalize

from toolkit.errors import TrainingError, first_line
from toolkit.models.backend import TrainerCallback, quiet
from toolkit.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

_METRICS = ("loss", "learning_rate", "grad_norm", "dev_accuracy", "dev_macro_f1", "dev_nll")
_PROJECT = "toolkit"
"""The project (Trackio) or experiment (MLflow) of all runs."""


class Tracker(Protocol):
    """A run in an experiment tracker."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Send the metrics of a step."""

    def close(self, *, is_complete: bool) -> None:
        """End the run after its last step, or until it is resumed."""


class TrackioRun:
    """A run in Trackio, which writes to ~/.cache/huggingface/trackio unless the user has set a Space or a server.

    Args:
        run: The run folder. The name is that of the folder and the time of the start.
        resume: Continue the run of this name; otherwise start a new one.
    """

    def __init__(self, run: RunFolder, *, resume: bool) -> None:
        import trackio

        self._trackio = trackio
        # Even for local files, Trackio asks the Hub for the user's name if a token is stored.
        is_local = not os.environ.get("TRACKIO_SPACE_ID")
        offline = patch("huggingface_hub.constants.HF_HUB_OFFLINE", True) if is_local else contextlib.nullcontext()
        with quiet(), offline:
            trackio.init(
                project=_PROJECT,
                # Trackio resumes the latest run of a name. The time of the start, which a resumed run keeps, tells
                # runs in folders of the same name apart.
                name=f"{run.path.resolve().name} {run.record.get('started')}",
                resume="allow" if resume else "never",
                private=True,  # a Space that Trackio has to create would be public by default
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Send the metrics of a step."""
        self._trackio.log(metrics, step=step)

    def close(self, *, is_complete: bool) -> None:
        """Wait until all metrics are written."""
        with quiet():
            self._trackio.finish()


class MlflowRun:
    """A run in MLflow, which writes to the working directory unless MLFLOW_TRACKING_URI is set.

    Args:
        run: The run folder, which gives the run its name.
        resume: Continue the MLflow run that was opened when the run started, if there is one.
    """

    def __init__(self, run: RunFolder, *, resume: bool) -> None:
        # MLflow sends usage statistics unless this is set before it is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # An unreachable server is reported after about one minute instead of five.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        # A client, because mlflow.start_run would add the user's name, the script and the commit, and a run that
        # failed would remain active in this process.
        self._client, self._metric = MlflowClient(), Metric
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = existing.experiment_id if existing else self._client.create_experiment(experiment)
        # Several runs can have the same name. The time of the start, which a resumed run keeps, tells them apart.
        name, tags = run.path.resolve().name, {"toolkit.started": str(run.record.get("started"))}
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        earlier = self._client.search_runs([experiment_id], filter_string=condition) if resume else []
        runs = [candidate for candidate in earlier if candidate.info.run_name == name]
        opened = runs[0] if runs else self._client.create_run(experiment_id, run_name=name, tags=tags)
        self._id = opened.info.run_id
        self._client.set_terminated(self._id, "RUNNING")  # reopens a run that has ended
        # At the latest when the process exits, a run that is still open is marked as failed.
        self._fail = finalize(self, self._client.set_terminated, self._id, "FAILED")

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Send the metrics of a step."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in metrics.items()])

    def close(self, *, is_complete: bool) -> None:
        """Mark the run as finished or, if it was interrupted, as killed."""
        self._fail.detach()
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")


TRACKERS: dict[str, type[TrackioRun] | type[MlflowRun]] = {"trackio": TrackioRun, "mlflow": MlflowRun}


class TrackerCallback(TrainerCallback):
    """A callback that sends the metrics of each optimizer step to a tracker.

    If the tracker cannot start, training ends with an error. A later failure only causes a warning.

    Args:
        name: A key of TRACKERS.
        run: The run folder.
        is_complete: A function that tells from the log history whether no step is left.
    """

    def __init__(self, name: str, run: RunFolder, is_complete: Callable[[Any], bool]) -> None:
        self._name, self._run, self._is_complete = name, run, is_complete
        self._tracker: Tracker | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the tracker's run in the main process.

        Raises:
            TrainingError: If it cannot be opened.
        """
        if not state.is_world_process_zero:
            return
        try:
            self._tracker = TRACKERS[self._name](self._run, resume=state.global_step > 0)
        except Exception as error:  # packages, databases and networks fail in many ways
            raise TrainingError(
                f"training.report_to is {self._name}, which cannot start a run: {first_line(error).rstrip('.')}.",
                hint=f"Check the environment variables of {self._name} and its version, or set training.report_to: "
                "none.",
            ) from error

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Send the metrics of a step. The summary at the end of training has none of them."""
        metrics = {name: float(logs[name]) for name in _METRICS if logs and logs.get(name) is not None}
        if self._tracker is not None and metrics:
            with self._stop_on_failure():
                self._tracker.log(metrics, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the tracker's run."""
        if self._tracker is not None:
            with self._stop_on_failure():
                self._tracker.close(is_complete=self._is_complete(state.log_history))
            self._tracker = None

    @contextlib.contextmanager
    def _stop_on_failure(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except Exception as error:
            self._tracker = None
            logger.warning(
                "WARNING     %s failed and gets no more metrics (train_log.jsonl has them): %s",
                self._name,
                first_line(error),
            )
