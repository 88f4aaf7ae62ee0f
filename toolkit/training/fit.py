"""The optimizer steps of a run, from its start or from a checkpoint to the saved adapter."""

import logging
from dataclasses import dataclass
from typing import Any

from toolkit.errors import TrainingError
from toolkit.planning.job import Plan, TrainingJob
from toolkit.planning.preflight import Preflight
from toolkit.runs.run_folder import IS_MAIN_PROCESS, RunFolder, finite_or_none
from toolkit.training.callbacks import TrainLog
from toolkit.training.checkpoints import Checkpoints, checkpoint_folder, clean_up, describe_damage
from toolkit.training.stop_signals import StopOnSignal, StopSignals
from toolkit.training.validation import StepChoice, Validation, ValidationResult, read_history
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.storage import flush_to_disk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The results of training, including earlier sessions of the run.

    Args:
        loss: The mean loss over all steps.
        seconds: The training time, including validations.
        validation: The outcome of the validations. None without dev rows.
    """

    loss: float | None
    seconds: float
    validation: ValidationResult | None


def fit(trainer: Any, job: TrainingJob, run: RunFolder, checkpoints: Checkpoints, resume_hint: str) -> FitResult:
    """Train from the latest intact checkpoint, or from the start, and save the adapter.

    Training ends after the last step of the plan, or earlier if the recipe sets a patience. The adapter is that of the
    last step, or with `training.keep: best` that of the best step on the dev rows.

    Args:
        trainer: A trainer that has not been used yet.
        job: The rows and the plan.
        run: The run folder, for the adapter and the log.
        checkpoints: The checkpoints in the run folder. Damaged ones are reported and renamed.
        resume_hint: The command or call that resumes the run, for messages.

    Raises:
        StorageError: If the disk is full. Complete checkpoints are kept.
        TrainingError: If the checkpoint of the best step, which is to be kept, is damaged.
        KeyboardInterrupt: If the process was asked to stop. The last step has been saved.
    """
    log = TrainLog(run.train_log if IS_MAIN_PROCESS else None)
    # First, so that a step is in the log before DivergenceGuard ends the run because of it.
    trainer.callback_handler.callbacks.insert(0, log)
    choice = StepChoice.of(job.recipe)
    if job.plan.eval_steps is not None:
        # Even before the log, so that the scores of a step are in its line.
        trainer.callback_handler.callbacks.insert(0, Validation(job))
        trainer.needed_step = choice.needed_step
    _announce_checkpoints(checkpoints, job.plan)
    if IS_MAIN_PROCESS:
        clean_up(run.checkpoints, checkpoints)
    with StopSignals(resume_hint) as signals:
        trainer.add_callback(StopOnSignal(signals))
        if checkpoints.newest and choice.is_complete(read_history(checkpoints.newest), job.plan):
            # The run was killed after its last checkpoint and before its adapter was complete.
            trainer.restore(checkpoints.newest)
            log.begin(trainer.state.log_history)
        else:
            newest = checkpoints.newest
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        history = trainer.state.log_history
        if not choice.is_complete(history, job.plan):
            step = trainer.state.global_step
            message = f"Training stopped after step {step} of {job.plan.steps}, and a checkpoint was saved."
            raise KeyboardInterrupt(f"{message} Resume with: {resume_hint}")
        validation = None if job.plan.eval_steps is None else ValidationResult(job, history)
        if IS_MAIN_PROCESS:
            if validation and validation.kept_step != validation.last_step:
                _load_step(trainer, run, validation.kept_step, resume_hint)
            save_adapter(trainer.model, job.preflight, run)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return FitResult(finite_or_none(sum(losses) / len(losses)), log.seconds, validation)


def _load_step(trainer: Any, run: RunFolder, step: int, resume_hint: str) -> None:
    """Load the weights of an earlier step from its checkpoint."""
    folder = checkpoint_folder(run.checkpoints, step)
    if damage := describe_damage(folder):
        raise TrainingError(
            f"The adapter of the best step, {step}, cannot be saved: {folder} is damaged ({damage}).",
            hint=f"Repeat the steps since the last checkpoint that does not need it: {resume_hint}",
        )
    trainer.load_weights(folder)


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
