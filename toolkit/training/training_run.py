"""Supervised fine-tuning from a recipe to a run folder with the adapter and the record of its training."""

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.errors import ModelError, StorageError, TrainingError
from toolkit.models.backend import wait_for_all_processes
from toolkit.models.model_folder import fetch_weights, model_fingerprint
from toolkit.models.precision import Precision
from toolkit.models.tree_attention import accept_trees
from toolkit.planning.device import peak_memory_bytes
from toolkit.planning.job import TrainingJob
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import Preflight, run_preflight
from toolkit.planning.resource_estimate import ResourceEstimate, disk_warning, estimate_resources, format_estimate
from toolkit.planning.suggestions import verdict
from toolkit.planning.validation_plan import validation_warnings
from toolkit.recipe.loading import dump_recipe
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import IS_MAIN_PROCESS, RunFolder, utc_now
from toolkit.runs.seal import make_seal
from toolkit.runs.versions import git_commit, package_versions
from toolkit.training.checkpoints import Checkpoints, find_checkpoints
from toolkit.training.fit import announce, fit
from toolkit.training.resume_checks import check_resumable, check_same_data, check_same_plan
from toolkit.training.trainer import step_errors
from toolkit.training.training_backends import TRAINING_BACKENDS
from toolkit.training.validation import StepChoice
from toolkit.training.verification import choose_rows, verify_tree
from toolkit.utils.storage import folder_lock
from toolkit.utils.terminal import use_color


@dataclass(frozen=True)
class TrainingOptions:
    """Options for the start of a run.

    Args:
        resume: Continue from the latest intact checkpoint.
        overwrite: Replace an older run.
        dry_run: Do everything except the optimizer steps, and write nothing.
        command: The command line, for run.json and for messages on resuming; None if Python code started the run.
    """

    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    command: Sequence[str] | None = None

    @property
    def resume_hint(self) -> str:
        """The command, or the call of the API, that resumes the run."""
        if self.command is None:
            return "toolkit.train(..., resume=True)"
        arguments = [argument for argument in self.command if argument not in ("--overwrite", "--resume")]
        return shlex.join(["python", *arguments, "--resume"])


def train_run(recipe: Recipe, run: RunFolder, options: TrainingOptions) -> None:
    """Train the recipe's adapter and save it in a run folder.

    Args:
        recipe: The recipe.
        run: The run folder. Nothing is written to it before the recipe, the data and the model have been checked.
        options: Options for the start of the run.

    Raises:
        ToolkitError: If the recipe cannot work, the run cannot be resumed, or training has to stop.
    """
    # Checks run from cheap to expensive: recipe and paths, rows, the plan and its memory, weights. So a mistake is
    # reported before minutes of downloading or loading.
    if options.resume:
        check_resumable(recipe, run)
        if run.is_finished:
            announce(f"{run.path} is finished. There is nothing to resume.")
            return
    elif not options.dry_run:
        run.check_not_taken(overwrite=options.overwrite)
    preflight = run_preflight(recipe, recorded_precision=Precision.from_record(run.record) if options.resume else None)
    announce(f"{preflight.report()}\n\n{preflight.examples(color=use_color())}\n")
    job, record = _plan_run(preflight, run, resume=options.resume)
    announce(f"batch       {job.plan}")
    for warning in validation_warnings(job):
        announce(warning)
    estimate = _announce_estimate(job, None if options.resume else run)
    fetch_weights(recipe.model.name, preflight.folder)
    start_time = time.monotonic()
    model = TRAINING_BACKENDS[recipe.model.kind].load(job)
    _check_trainable(model, preflight)
    job = _verify_trees(job, model)
    if options.resume:
        # Again, because the verification may have switched to dense attention or padded batches.
        check_same_plan(run, job.plan.record(recipe))
    if options.dry_run:
        with TemporaryDirectory() as folder:  # a trainer creates its output folder when it is constructed
            TRAINING_BACKENDS[recipe.model.kind].make_trainer(job, model, Path(folder))
        announce("Dry run: data, model and trainer are ready. No step was taken and nothing was written.")
        return
    _run_job(job, model, run, options, record | _job_record(job, estimate), start_time)


def _plan_run(preflight: Preflight[Any], run: RunFolder, *, resume: bool) -> tuple[TrainingJob, dict[str, Any]]:
    """Return the job and the fields of run.json about rows and model."""
    job, record = plan_job(preflight), preflight.record()
    record["model"]["fingerprint"] = model_fingerprint(preflight.folder)
    if resume:
        check_same_data(run, record)
        # `auto` sizes depend on the available memory. Other micro-batches would add up gradients in another order and
        # change their last bits, so a resumed run keeps the sizes that it was started with.
        job = job.with_plan(job.plan.as_recorded(run.record, preflight.recipe))
        check_same_plan(run, job.plan.record(preflight.recipe))
    return job, record


def _announce_estimate(job: TrainingJob, new_run: RunFolder | None) -> ResourceEstimate | None:
    """Print the predicted memory and disk space, and return them; None if the memory cannot be predicted."""
    try:
        estimate = estimate_resources(job)
    except ModelError as error:
        announce(f"memory      {error}")
        return None
    announce(format_estimate(estimate, verdict(job.preflight, estimate)))
    # A run that is resumed has its checkpoints already, and new ones replace them.
    if new_run and (warning := disk_warning(estimate, new_run.path)):
        announce(warning)
    return estimate


def _job_record(job: TrainingJob, estimate: ResourceEstimate | None) -> dict[str, Any]:
    return {**job.plan.record(job.recipe), "outlook": estimate.record() if estimate else None}


def _run_job(
    job: TrainingJob, model: Any, run: RunFolder, options: TrainingOptions, record: dict[str, Any], start_time: float
) -> None:
    with folder_lock(run.path, create=True) if IS_MAIN_PROCESS else nullcontext():
        needed_step = StepChoice.of(job.recipe).needed_step
        checkpoints = find_checkpoints(run.checkpoints, needed_step) if options.resume else Checkpoints(None)
        if not options.resume:
            # Again, now that the folder is locked: another process may have started a run in it in the meantime.
            run.check_not_taken(overwrite=options.overwrite)
        _record_start(run, job.recipe, record, options)
        # Each trainer creates the checkpoints folder, while the main process may still be deleting an older run.
        if job.plan.processes > 1:
            wait_for_all_processes()
        _fit_and_record(job, model, run, checkpoints, options, load_seconds=time.monotonic() - start_time)
        # Only the main process writes the run, but any process may read it next.
        if job.plan.processes > 1:
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
        with suppress(OSError):  # a full disk must not hide the error that ended the run
            _record_end(run, status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        if isinstance(error, StorageError):
            error.hint = f"Free some disk space (`df -h` shows what is left), then resume with: {options.resume_hint}"
        raise
    if not IS_MAIN_PROCESS:
        return
    timings = {"load_seconds": round(load_seconds, 2), "train_seconds": round(results.seconds, 2)}
    fields: dict[str, Any] = {}
    if (validation := results.validation) is not None:
        timings["validation_seconds"] = round(validation.seconds, 2)
        fields["validation"] = validation.record()
        announce(f"validation  {validation}")
    fields |= {"final_loss": results.loss, "timings": timings, "peak_memory_bytes": peak_memory_bytes()}
    _record_completion(run, job, **fields)
    announce(f"adapter     {run.adapter}")


def _record_end(run: RunFolder, **fields: Any) -> None:
    if IS_MAIN_PROCESS:
        run.update(ended=utc_now(), **fields)


def _record_completion(run: RunFolder, job: TrainingJob, **fields: Any) -> None:
    fields = {"ended": utc_now(), "status": "completed", **fields}
    # One write: a run that is killed here is not a completed run without a seal, but one that can be resumed.
    run.update(**fields, seal=make_seal(run.path, job.recipe, job.preflight.folder, run.record | fields))


def _check_trainable(model: Any, preflight: Preflight[Any]) -> None:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    expected = preflight.parameters.trainable
    if trainable != expected:
        raise TrainingError(f"The model has {trainable:,} trainable parameters, but the recipe defines {expected:,}.")


def _verify_trees(job: TrainingJob, model: Any) -> TrainingJob:
    """Return the job with the first attention whose tree equals padded rows, or with padded rows if none does.

    Raises:
        TrainingError: If the verification fails with every attention and the recipe requires trees.
    """
    if not job.plan.is_tree:
        return job
    accept_trees(model)
    training = job.recipe.training
    rows, precision = choose_rows(job, model.config), job.preflight.precision
    verify = partial(verify_tree, model, rows, training.loss_on, precision, labels=job.label_targets)
    for attention in job.plan.allowed_attentions:
        verification = verify(attention)
        if verification.passed:
            announce(f"verified    {verification}")
            job = job.with_verification(verification, attention)
            if attention == "split" and job.plan.dense_nodes and not (dense := verify("dense")).passed:
                announce(f"rejected    dense attention over small prefix trees: {dense}")
                job = job.with_plan(replace(job.plan, dense_nodes=0))
            return job
        if attention != job.plan.allowed_attentions[-1]:
            announce(f"rejected    {attention} attention over prefix trees: {verification}")
    accept_trees(model, False)
    if training.batching == "prefix_tree":
        raise TrainingError(
            f"Prefix trees cannot be used for this model and device: {verification}.",
            hint="Set training.batching: padded, and please report this with the versions in run.json.",
        )
    announce(
        f"WARNING     prefix trees failed the verification: {verification}. "
        "Training continues with padded rows, which are slower."
    )
    return job.with_verification(verification, attention)


def _record_start(run: RunFolder, recipe: Recipe, job_record: dict[str, Any], options: TrainingOptions) -> None:
    if not IS_MAIN_PROCESS:
        return
    command = None if options.command is None else list(options.command)
    origin = {"versions": package_versions(), "git_commit": git_commit(), "command": command, "seed": recipe.seed}
    record = {**origin, **job_record}
    if options.resume and run.record:
        run.update(status="running", resumed=utc_now(), **record)
    else:  # a new run, or one that is resumed after a kill before it had a run.json
        run.create(record, dump_recipe(recipe), replace=options.overwrite)
