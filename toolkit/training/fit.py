"""The optimizer steps of a run, from its start or from a checkpoint to the saved adapter."""

import logging
from dataclasses import dataclass
from typing import Any

from toolkit.planning.job import Plan, TrainingJob
from toolkit.planning.preflight import Preflight
from toolkit.runs.run_folder import IS_MAIN_PROCESS, RunFolder, finite_or_none
from toolkit.training.callbacks import TrainLog
from toolkit.training.checkpoints import Checkpoints, clean_up
from toolkit.training.stop_signals import StopOnSignal, StopSignals
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.storage import flush_to_disk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The mean loss over all steps, and the training time including earlier sessions of the run."""

    loss: float | None
    seconds: float


def fit(trainer: Any, job: TrainingJob, run: RunFolder, checkpoints: Checkpoints, resume_hint: str) -> FitResult:
    """Train from the latest intact checkpoint, or from the start, to the last step, and save the adapter.

    Args:
        trainer: A trainer that has not been used yet.
        job: The rows and the plan.
        run: The run folder, for the adapter and the log.
        checkpoints: The checkpoints in the run folder. Damaged ones are reported and renamed.
        resume_hint: The command or call that resumes the run, for messages.

    Raises:
        StorageError: If the disk is full. Complete checkpoints are kept.
        KeyboardInterrupt: If the process was asked to stop. The last step has been saved.
    """
    log = TrainLog(run.train_log if IS_MAIN_PROCESS else None)
    # First, so that a step is in the log before DivergenceGuard ends the run because of it.
    trainer.callback_handler.callbacks.insert(0, log)
    _announce_checkpoints(checkpoints, job.plan)
    if IS_MAIN_PROCESS:
        clean_up(run.checkpoints, checkpoints)
    with StopSignals(resume_hint) as signals:
        trainer.add_callback(StopOnSignal(signals))
        if checkpoints.newest and checkpoints.step == job.plan.steps:
            # The run was killed after its last checkpoint and before its adapter was complete.
            trainer.restore(checkpoints.newest)
            log.begin(trainer.state.log_history)
        else:
            newest = checkpoints.newest
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if (step := trainer.state.global_step) < job.plan.steps:
            message = f"Training stopped after step {step} of {job.plan.steps}, and a checkpoint was saved."
            raise KeyboardInterrupt(f"{message} Resume with: {resume_hint}")
        if IS_MAIN_PROCESS:
            save_adapter(trainer.model, job.preflight, run)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return FitResult(finite_or_none(sum(losses) / len(losses)), log.seconds)


def announce(text: str) -> None:
    """Log a message from the main process only; commands print it."""
    if IS_MAIN_PROCESS:
        logger.info(text)


def _announce_checkpoints(checkpoints: Checkpoints, plan: Plan) -> None:
    for folder, damage in checkpoints.damaged:
        announce(
            f"WARNING     {folder} is damaged and will be ignored: {damage}. It is kept until the next checkpoint."
        )
    if checkpoints.newest:
        announce(f"resuming    after step {checkpoints.step} of {plan.steps}, from {checkpoints.newest}")


def save_adapter(model: Any, preflight: Preflight[Any], run: RunFolder) -> None:
    """Write the trained weights and the tokenizer, with the recipe's chat template, into the run folder.

    The weights are those of the adapter or, without one, of the complete model as transformers saves it.
    """
    labels = preflight.recipe.task.labels
    if preflight.recipe.lora is None:  # the base model's head can have had other names for its outputs
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
    else:
        config = model.peft_config["default"]
        config.base_model_name_or_path = preflight.recipe.model.name
        # The order of a set of strings depends on PYTHONHASHSEED, and so would the bytes of adapter_config.json.
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)
    with atomic_path(run.adapter) as partial:
        # By default ("auto"), PEFT looks up the base model on the Hub to see whether its vocabulary was resized.
        options = {} if preflight.recipe.lora is None else {"save_embedding_layers": False}
        model.save_pretrained(str(partial), **options)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's model card, an empty template
        preflight.row_tokenizer.tokenizer.save_pretrained(str(partial))
        flush_to_disk(partial)
