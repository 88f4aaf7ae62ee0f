"""The steps of a run, from the start or from a checkpoint, to the adapter."""

from dataclasses import dataclass
from typing import Any

from toolkit.disk import flush_to_disk
from toolkit.files import atomic_path
from toolkit.preflight import Preflight
from toolkit.run_folder import IS_MAIN_PROCESS, RunFolder, finite
from toolkit.training.callbacks import TrainLog
from toolkit.training.checkpoints import Checkpoints, tidy
from toolkit.training.plan import Plan
from toolkit.training.signals import StopSignals, StopWhenAsked, resume_command


@dataclass(frozen=True)
class Results:
    """The mean loss over all steps, and the training time of all starts."""

    loss: float | None
    seconds: float


def fit(trainer: Any, before: Preflight, plan: Plan, run: RunFolder, found: Checkpoints) -> Results:
    """Make all steps behind the newest complete checkpoint, and save the adapter.

    Args:
        trainer: one that stands before its first step.
        before: the recipe and its rows.
        plan: the run's steps.
        run: where the adapter and the log go.
        found: what the run's folder holds of checkpoints; damaged ones are named and removed.

    Raises:
        StorageError: the disk is full; complete checkpoints stay.
        KeyboardInterrupt: the process was asked to stop; the last step's checkpoint is written.
    """
    log = TrainLog(run.train_log if IS_MAIN_PROCESS else None)
    trainer.callback_handler.callbacks.insert(0, log)  # before a callback that may stop the run
    _tell(found, plan)
    if IS_MAIN_PROCESS:
        tidy(run.checkpoints, found)
    with StopSignals() as signals:
        trainer.add_callback(StopWhenAsked(signals))
        if found.newest and found.step == plan.steps:
            trainer.restore(found.newest)
            log.begin(trainer.state.log_history)
        else:
            trainer.train(resume_from_checkpoint=str(found.newest) if found.newest else None)
        if (step := trainer.state.global_step) < plan.steps:
            raise KeyboardInterrupt(
                f"behind step {step} of {plan.steps}, which is saved; go on with: {resume_command()}"
            )
        if IS_MAIN_PROCESS:
            save_adapter(trainer.model, before, run)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Results(finite(sum(losses) / len(losses)), log.seconds)


def say(text: str) -> None:
    """Print, from one of the processes that a launcher started together."""
    if IS_MAIN_PROCESS:
        print(text)


def _tell(found: Checkpoints, plan: Plan) -> None:
    for folder, damage in found.damaged:
        say(f"WARNING     {folder} is damaged and not used: {damage}; it is kept until the next one is written")
    if found.newest:
        say(f"resuming    behind step {found.step} of {plan.steps}, from {found.newest}")


def save_adapter(model: Any, before: Preflight, run: RunFolder) -> None:
    """Write the adapter and the tokenizer, with the recipe's chat template, as the run's result."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = before.recipe.model.name
    if isinstance(config.target_modules, set):  # its order would change from process to process
        config.target_modules = sorted(config.target_modules)
    with atomic_path(run.adapter) as partial:
        # Left to itself, PEFT asks the hub whether the vocabulary has grown.
        model.save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        before.encoder.tokenizer.save_pretrained(str(partial))
        flush_to_disk(partial)
