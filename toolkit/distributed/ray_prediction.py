"""Prediction of shards with Ray Data: each worker keeps one classifier and labels one shard at a time."""

import logging
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

import toolkit
from toolkit.api.imports import import_backend
from toolkit.api.run import Run
from toolkit.distributed.ray_cluster import connect, count_workers, worker_resources
from toolkit.distributed.shards import (
    Location,
    Shard,
    ShardResult,
    check_same_columns,
    download,
    find_missing,
    list_shards,
    save_result,
    upload,
    write_manifest,
)
from toolkit.errors import DataError, RunError, ToolkitError, WorkerError, first_line
from toolkit.recipe.loading import Overrides
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import file_sha256
from toolkit.utils.progress import Progress, progress_bar, show_progress

logger = logging.getLogger(__name__)

_SHOWN_ERRORS = 5
_RESTARTS = 20
"""The maximum number of restarts of each worker. Ray's limit on task retries cannot replace it, because waiting for a
restart counts as a retry."""


@dataclass(frozen=True)
class ModelOptions:
    """The model of a run, and how to open and use it; sent to each worker.

    Args:
        run: The absolute path of the run folder. Each node must have it.
        model: adapter, base, merged or the absolute path of a GGUF file.
        calibrated: Whether probabilities are calibrated.
        overrides: Changes to the recipe.
        base: The folder of the base model, if it has moved.
        accept_changes: Whether changed files are used.
    """

    run: str
    model: str = "adapter"
    calibrated: bool = False
    overrides: Overrides = ()
    base: str | None = None
    accept_changes: bool = False
    version: str = field(default_factory=lambda: toolkit.__version__)

    @classmethod
    def of(
        cls,
        run: Path,
        model: str,
        calibrated: bool,
        overrides: Overrides,
        *,
        base: Path | None = None,
        accept_changes: bool = False,
    ) -> "ModelOptions":
        """Return the options with absolute paths, because workers have other working directories."""
        model = str(Path(model).absolute()) if model.endswith(".gguf") else model
        base_path = None if base is None else str(base.absolute())
        return cls(str(run.absolute()), model, calibrated, overrides, base_path, accept_changes)

    def open(self) -> TrainedRun:
        """Open the run.

        Raises:
            ToolkitError: If the run cannot be opened, or this node has another version of the toolkit.
        """
        if toolkit.__version__ != self.version:
            raise RunError(
                f"This node has toolkit {toolkit.__version__}, but the driver has {self.version}.",
                hint="Install the same version on all nodes.",
            )
        base = None if self.base is None else Path(self.base)
        return TrainedRun.open(Path(self.run), self.overrides, base=base, accept_changes=self.accept_changes)


class ShardLabeler:
    """A worker that keeps a classifier and labels shards. Ray Data calls it with a batch of one shard.

    Args:
        options: The model.
        output: The folder of the outputs.
        origin: What the predictions depend on, for the records.
    """

    def __init__(self, options: ModelOptions, output: str, origin: dict[str, Any]) -> None:
        self._output, self._origin = Location(output), origin
        self._classifier = Run(options.open()).load(options.model, calibrated=options.calibrated)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Label the shards of a batch, and return their names and the errors of those that cannot be labeled."""
        names, errors = [], []
        for uri, size, modified in zip(batch["uri"], batch["size"], batch["modified"], strict=True):
            shard = Shard(str(uri), int(size), str(modified) or None)
            try:
                self._label(shard)
                errors.append("")
            # Return the error, so that it is reported in one sentence and the other shards continue.
            except (ToolkitError, OSError, ArrowException) as error:
                errors.append(f"{shard.name}: {first_line(error)}")
            names.append(shard.name)
        return {"name": names, "error": errors}

    def _label(self, shard: Shard) -> None:
        from toolkit.data.prediction_input import open_input
        from toolkit.inference.prediction import predict_file

        recipe = self._classifier.run.recipe
        with tempfile.TemporaryDirectory() as scratch:
            source = download(shard, Path(scratch))
            target = Path(scratch) / "labeled" / shard.name
            target.parent.mkdir()
            truncated = predict_file(self._classifier, source, target)
            columns = list(recipe.columns_of(recipe.data.eval).inputs.values())
            rows = sum(1 for _ in open_input(source, recipe.data.eval.format, columns).rows())
            upload(target, self._output.child(shard.name))
        save_result(self._output, ShardResult(shard, self._origin, rows, truncated))


def predict_shards(
    options: ModelOptions, pattern: str, output: str, address: str, *, progress: Progress = False
) -> dict[str, Any]:
    """Label many files with a pool of workers on a Ray cluster.

    Each shard is written to the output folder under its own name, by one worker and in one step. Ray restarts workers
    that die, on other nodes if need be. After an interruption, the same call labels the shards that are missing.

    Args:
        options: The model.
        pattern: The input files, e.g. `shards/*.parquet`; see `list_shards`.
        output: The folder to write, on a file system that all nodes share.
        address: The Ray cluster, see `connect`.
        progress: True for a progress bar on standard error, or a callback.

    Returns:
        The contents of manifest.json.

    Raises:
        ToolkitError: If shards, run or cluster cannot be used.
        DataError: If shards could not be labeled. The outputs of all others are written.
        WorkerError: If workers cannot start, or die again and again.
    """
    run, model = options.open(), ModelRef.parse(options.model)
    model.check(run.folder, run.recipe.model.kind)
    temperature = None
    if options.calibrated:
        import_backend(model)
        from toolkit.inference.prediction import load_temperature

        temperature = load_temperature(run, model)
    shards, source = list_shards(pattern), run.recipe.data.eval
    origin = {
        "model": model.name if model.gguf is None else file_sha256(model.gguf),
        "adapter": run.adapter_sha256,
        "overrides": run.overridden,
        "temperature": temperature,
        "toolkit version": options.version,
    }
    target = Location(output).absolute
    with show_progress(progress):
        if missing := find_missing(target, shards, origin):
            columns = list(run.recipe.columns_of(source).inputs.values())
            check_same_columns(list(dict.fromkeys([shards[0], *missing])), source.format, columns)
            errors = _label_shards(options, missing, target, origin, connect(address))
            if errors:
                more = f"\n{len(errors) - _SHOWN_ERRORS:,} more" if len(errors) > _SHOWN_ERRORS else ""
                raise DataError(
                    "\n".join(errors[:_SHOWN_ERRORS]) + more,
                    hint="All other shards are labeled. Correct these, and run the same command again.",
                )
        return write_manifest(target, shards, origin)


def _label_shards(
    options: ModelOptions, shards: list[Shard], output: Location, origin: dict[str, Any], ray: Any
) -> list[str]:
    """Label shards on a cluster, and return the errors of those that cannot be labeled."""
    import ray.data as ray_data

    resources = worker_resources(ray)
    workers = min(len(shards), count_workers(ray, resources))
    logger.info("labeling    shards: %s, at a time: %s", f"{len(shards):,}", workers)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    # Ray would convert a column that contains only None to numbers.
    rows = [{"uri": shard.uri, "size": shard.size, "modified": shard.modified or ""} for shard in shards]
    labeled = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardLabeler,
        batch_size=1,
        fn_constructor_args=(options, str(output.uri), origin),
        compute=ray_data.ActorPoolStrategy(min_size=1, max_size=workers),
        max_restarts=_RESTARTS,
        **resources,
    )
    errors = []
    try:
        with progress_bar(desc="shards", total=len(shards), unit="shard") as bar:
            for row in labeled.iter_rows():
                bar.update()
                if row["error"]:
                    errors.append(row["error"])
    except ray.exceptions.RayError as error:  # a worker that cannot start, or a shard that kills each worker
        raise WorkerError(
            f"A worker has failed: {_cause(error)}.", hint="Finished shards are kept: run the same command again."
        ) from error
    return errors


def _cause(error: BaseException) -> str:
    """Return the message of the exception that ended a worker; Ray's message ends with its traceback."""
    last_line = str(error).strip().rpartition("\n")[2] or type(error).__name__
    return re.sub(r"^toolkit\.errors\.\w+: ", "", last_line).rstrip(".")
