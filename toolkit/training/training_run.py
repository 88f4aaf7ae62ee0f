"""Supervised fine-tuning: a recipe in, an adapter and the record of how it came about out."""

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.errors import StorageError, TrainingError
from toolkit.models.attention import accept_trees
from toolkit.models.backend import wait_for_all_processes
from toolkit.models.model_folder import fetch_weights, model_fingerprint
from toolkit.models.precision import Precision
from toolkit.planning.device import peak_memory_bytes
from toolkit.planning.job import TrainingJob
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import Preflight, run_preflight
from toolkit.planning.resource_estimate import ResourceEstimate, disk_warning, estimate_lines, estimate_resources
from toolkit.planning.suggestions import verdict
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import IS_MAIN_PROCESS, RunFolder, now
from toolkit.runs.versions import git_commit, package_versions
from toolkit.training.checkpoints import Checkpoints, find_checkpoints
from toolkit.training.fit import announce, fit
from toolkit.training.resume_checks import check_same_data, check_same_plan, check_same_run
from toolkit.training.trainer import step_errors
from toolkit.training.training_backends import TRAINING_BACKENDS
from toolkit.training.verification import verify_tree
from toolkit.utils.storage import folder_lock
from toolkit.utils.terminal import use_color


@dataclass(frozen=True)
class TrainingOptions:
    """How a run is started.

    Args:
        resume: go on from the newest checkpoint.
        overwrite: replace an older run.
        dry_run: do everything but the steps, and write nothing.
        command: the command line, for run.json and for what to type to resume; None where Python called.
    """

    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    command: Sequence[str] | None = None

    @property
    def resume_hint(self) -> str:
        """What resumes the run: a command, or the call of the API."""
        if self.command is None:
            return "toolkit.train(..., resume=True)"
        arguments = [argument for argument in self.command if argument not in ("--overwrite", "--resume")]
        return shlex.join(["python", *arguments, "--resume"])


def train_run(recipe: Recipe, run: RunFolder, options: TrainingOptions) -> None:
    """Train the recipe's adapter into a run folder.

    Args:
        recipe: what to do.
        run: where the results go; nothing is written there before data, model and recipe have been checked.
        options: how the run is started.

    Raises:
        ToolkitError: the recipe cannot work, the run cannot be resumed, or the loss is no number.
    """
    if options.resume:
        check_same_run(recipe, run)
        if run.is_finished:
            announce(f"{run.path} is finished; there is nothing to resume.")
            return
    elif not options.dry_run:
        run.check_not_taken(overwrite=options.overwrite)
    preflight = run_preflight(recipe, recorded=Precision.from_record(run.record) if options.resume else None)
    announce(f"{preflight.report()}\n\n{preflight.examples(color=use_color())}\n")
    job, record = _plan_run(preflight, run, resume=options.resume)
    announce(f"batch       {job.plan}")
    estimate = estimate_resources(job) if recipe.model.kind == "decoder" else None
    if estimate:
        announce(estimate_lines(estimate, verdict(preflight, estimate)))
        if not options.resume and (warning := disk_warning(estimate, run.path)):  # else its checkpoints are there
            announce(warning)
    fetch_weights(recipe.model.name, preflight.folder)
    start_time = time.monotonic()
    model = TRAINING_BACKENDS[recipe.model.kind].load(job)
    _check_trainable(model, preflight)
    job = _verify(job, model)
    if options.resume:
        check_same_plan(run, asdict(job.plan))
    if options.dry_run:
        with TemporaryDirectory() as folder:  # a trainer makes its output folder at once
            TRAINING_BACKENDS[recipe.model.kind].make_trainer(job, model, Path(folder))
        announce("Dry run: data, model and trainer are ready; no step was made and nothing was written.")
        return
    _run_job(job, model, run, options, record | _job_record(job, estimate), start_time)


def _plan_run(preflight: Preflight[Any], run: RunFolder, *, resume: bool) -> tuple[TrainingJob, dict[str, Any]]:
    """The job, and what run.json says of rows and model; of a resumed run as it was started."""
    job, record = plan_job(preflight), preflight.record()
    record["model"]["fingerprint"] = model_fingerprint(preflight.folder)
    if resume:
        check_same_data(run, record)
        job = job.with_plan(job.plan.as_recorded(run.record))
        check_same_plan(run, asdict(job.plan))
    return job, record


def _job_record(job: TrainingJob, estimate: ResourceEstimate | None) -> dict[str, Any]:
    return {**asdict(job.plan), "outlook": estimate.record() if estimate else None}


def _run_job(
    job: TrainingJob, model: Any, run: RunFolder, options: TrainingOptions, record: dict[str, Any], start_time: float
) -> None:
    with folder_lock(run.path) if IS_MAIN_PROCESS else nullcontext():
        checkpoints = find_checkpoints(run.checkpoints) if options.resume else Checkpoints(None)
        if not options.resume:
            run.check_not_taken(overwrite=options.overwrite)  # again: another process may have started meanwhile
        _begin(run, job.recipe, record, options)
        if job.plan.processes > 1:  # a trainer makes its output folder at once, which the main process may be emptying
            wait_for_all_processes()
        _fit_and_record(job, model, run, checkpoints, options, load_seconds=time.monotonic() - start_time)
        if job.plan.processes > 1:  # any process may read the run next, which the main one writes
            wait_for_all_processes()


def _fit_and_record(
    job: TrainingJob,
    model: Any,
    run: RunFolder,
    checkpoints: Checkpoints,
    options: TrainingOptions,
    *,
    load_seconds: float,
) -> None:
    try:
        with step_errors():
            trainer = TRAINING_BACKENDS[job.recipe.model.kind].make_trainer(job, model, run.checkpoints)
            results = fit(trainer, job, run, checkpoints, options.resume_hint)
    except BaseException as error:
        with suppress(OSError):  # what ended the run is the news, not that there is no room to note it
            _finish(run, status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        if isinstance(error, StorageError):
            error.hint = f"Make room (`df -h` tells how much there is), then go on with: {options.resume_hint}"
        raise
    timings = {"load_seconds": round(load_seconds, 2), "train_seconds": round(results.seconds, 2)}
    _finish(run, status="completed", final_loss=results.loss, timings=timings, peak_memory_bytes=peak_memory_bytes())
    announce(f"adapter     {run.adapter}")


def _finish(run: RunFolder, **fields: Any) -> None:
    if IS_MAIN_PROCESS:
        run.update(ended=now(), **fields)


def _check_trainable(model: Any, preflight: Preflight[Any]) -> None:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    expected = preflight.parameters.trainable
    if trainable != expected:
        raise TrainingError(f"{trainable:,} parameters would be trained, but the recipe's adapter has {expected:,}.")


def _verify(job: TrainingJob, model: Any) -> TrainingJob:
    """The job, with padded rows where a tree does not give what they give.

    Raises:
        TrainingError: it does not, and the recipe allows nothing but trees.
    """
    if not job.plan.is_tree:
        return job
    accept_trees(model)
    training = job.recipe.training
    verification = verify_tree(model, job.first_batches(1)[0], training.loss_on, job.preflight.precision)
    if verification.passed:
        announce(f"verified    {verification}")
        return job.with_verification(verification)
    accept_trees(model, False)
    if training.batching == "prefix_tree":
        raise TrainingError(
            f"On this model and device {verification}: tree batches cannot be trained on.",
            hint="Set training.batching: padded, and please report this with the versions in run.json.",
        )
    announce(f"WARNING     {verification}. Training goes on with padded rows, which are slower.")
    return job.with_verification(verification)


def _begin(run: RunFolder, recipe: Recipe, findings: dict[str, Any], options: TrainingOptions) -> None:
    if not IS_MAIN_PROCESS:
        return
    command = None if options.command is None else list(options.command)
    origin = {"versions": package_versions(), "git_commit": git_commit(), "command": command, "seed": recipe.seed}
    record = {**origin, **findings}
    if options.resume and run.record:
        run.update(status="running", resumed=now(), **record)
    else:  # also a run that was killed before it had a run.json
        run.begin(record, dump_recipe(recipe), replace=options.overwrite)
