"""The steps of a run, from the start or from a checkpoint, to the adapter."""

import logging
from dataclasses import dataclass
from typing import Any

from toolkit.planning.job import Plan, TrainingJob
from toolkit.planning.preflight import Preflight
from toolkit.runs.run_folder import IS_MAIN_PROCESS, RunFolder, finite
from toolkit.training.callbacks import TrainLog
from toolkit.training.checkpoints import Checkpoints, clean_up
from toolkit.training.stop_signals import StopOnSignal, StopSignals
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.storage import flush_to_disk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """The mean loss over all steps, and the training time of all starts."""

    loss: float | None
    seconds: float


def fit(trainer: Any, job: TrainingJob, run: RunFolder, checkpoints: Checkpoints, resume_hint: str) -> Results:
    """Make all steps behind the newest complete checkpoint, and save the adapter.

    Args:
        trainer: one that stands before its first step.
        job: the rows, and the steps.
        run: where the adapter and the log go.
        checkpoints: what the run's folder holds of them; damaged ones are named and removed.
        resume_hint: what resumes the run, for messages.

    Raises:
        StorageError: the disk is full; complete checkpoints stay.
        KeyboardInterrupt: the process was asked to stop; the last step's checkpoint is written.
    """
    log = TrainLog(run.train_log if IS_MAIN_PROCESS else None)
    trainer.callback_handler.callbacks.insert(0, log)  # before a callback that may stop the run
    _announce_checkpoints(checkpoints, job.plan)
    if IS_MAIN_PROCESS:
        clean_up(run.checkpoints, checkpoints)
    with StopSignals(resume_hint) as signals:
        trainer.add_callback(StopOnSignal(signals))
        if checkpoints.newest and checkpoints.step == job.plan.steps:
            trainer.restore(checkpoints.newest)
            log.begin(trainer.state.log_history)
        else:
            newest = checkpoints.newest
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if (step := trainer.state.global_step) < job.plan.steps:
            raise KeyboardInterrupt(
                f"behind step {step} of {job.plan.steps}, which is saved; go on with: {resume_hint}"
            )
        if IS_MAIN_PROCESS:
            save_adapter(trainer.model, job.preflight, run)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Results(finite(sum(losses) / len(losses)), log.seconds)


def announce(text: str) -> None:
    """Report what a run does, from one of the processes that a launcher started together; commands print it."""
    if IS_MAIN_PROCESS:
        logger.info(text)


def _announce_checkpoints(checkpoints: Checkpoints, plan: Plan) -> None:
    for folder, damage in checkpoints.damaged:
        announce(f"WARNING     {folder} is damaged and not used: {damage}; it is kept until the next one is written")
    if checkpoints.newest:
        announce(f"resuming    behind step {checkpoints.step} of {plan.steps}, from {checkpoints.newest}")


def save_adapter(model: Any, preflight: Preflight[Any], run: RunFolder) -> None:
    """Write the adapter and the tokenizer, with the recipe's chat template, as the run's result."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = preflight.recipe.model.name
    if isinstance(config.target_modules, set):  # its order would change from process to process
        config.target_modules = sorted(config.target_modules)
    with atomic_path(run.adapter) as partial:
        # Left to itself, PEFT asks the hub whether the vocabulary has grown.
        model.save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        preflight.encoder.tokenizer.save_pretrained(str(partial))
        flush_to_disk(partial)
