"""Supervised fine-tuning: a recipe in, an adapter and the record of how it came about out."""

import math
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from datasets import Dataset

from toolkit.batching.collators import PaddedCollator, training_row
from toolkit.batching.sampling import activation_bytes_per_token, choose_micro_batch
from toolkit.callbacks import Progress, StopOnNonFinite, TrainLog
from toolkit.errors import DeviceMemoryError, RunError, TrainingError
from toolkit.model.backend import DEVICE, PrinterCallback, SFTConfig, SFTTrainer, quiet
from toolkit.model.loading import attach_lora, load_base
from toolkit.model.parameters import model_config
from toolkit.preflight import Preflight, run_preflight
from toolkit.recipe import Recipe
from toolkit.recipe_file import differences, dump_recipe, load_recipe
from toolkit.run_folder import RunFolder, atomic_path, now, write_text
from toolkit.versions import git_commit, package_versions

_IS_MAIN = os.environ.get("RANK", "0") == "0"
"""Whether this process writes the run's files, of those that a launcher started together."""


@dataclass(frozen=True)
class Plan:
    """How the rows of one optimiser step are spread over forward passes and processes."""

    micro_batch_size: int
    accumulation: int
    processes: int
    steps: int
    gradient_checkpointing: bool
    optimizer: str

    @property
    def effective_batch(self) -> int:
        """Rows per optimiser step."""
        return self.micro_batch_size * self.accumulation * self.processes

    def __str__(self) -> str:
        return (
            f"{self.effective_batch} rows = {self.micro_batch_size} x {self.accumulation} accumulated, "
            f"processes: {self.processes}; {self.steps:,} steps of {self.optimizer}"
        )


def train(recipe: Recipe, run: RunFolder, *, resume: bool, overwrite: bool, dry_run: bool) -> None:
    """Train the recipe's adapter into a run folder.

    Args:
        recipe: what to do.
        run: where the results go; nothing is written there before data, model and recipe have been checked.
        resume: go on from the newest checkpoint.
        overwrite: replace an older run.
        dry_run: do everything but the steps, and write nothing.

    Raises:
        ToolkitError: the recipe cannot work, the run cannot be resumed, or the loss is no number.
    """
    if resume:
        _refuse_other_recipe(recipe, run)
        if run.record.get("status") == "completed":
            print(f"{run.path} is finished; there is nothing to resume.")
            return
    before = run_preflight(recipe, weights=True)
    print(f"{before.report()}\n\n{before.example(colour=sys.stdout.isatty())}\n")
    plan = make_plan(before)
    print(f"batch       {plan}")
    started = time.monotonic()
    model = load_base(before.folder, recipe, before.precision, gradient_checkpointing=plan.gradient_checkpointing)
    model = attach_lora(model, recipe.lora, seed=recipe.seed, gradient_checkpointing=plan.gradient_checkpointing)
    _check_trainable(model, before)
    if dry_run:
        with TemporaryDirectory() as folder:  # a trainer makes its output folder at once
            make_trainer(before, plan, model, Path(folder))
        print("Dry run: data, model and trainer are ready; no step was made and nothing was written.")
        return
    checkpoint = _newest_checkpoint(run) if resume else None
    _begin(run, before, plan, overwrite=overwrite, resume=resume)
    loaded = time.monotonic()
    try:
        trainer = make_trainer(before, plan, model, run.checkpoints)
        if _IS_MAIN:
            log = TrainLog(run.train_log, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
            trainer.callback_handler.callbacks.insert(0, log)  # before a callback that may stop the run
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if _IS_MAIN:
            save_adapter(model, before, run)
    except BaseException as error:
        _finish(run, status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        if isinstance(error, torch.OutOfMemoryError):
            raise DeviceMemoryError(
                "The device's memory does not hold a training step.",
                hint="Lower training.micro_batch_size, or set model.load_in_4bit: true.",
            ) from error
        raise
    _finish(
        run,
        status="completed",
        final_loss=trainer.state.log_history[-1].get("train_loss"),
        timings={"load_seconds": round(loaded - started, 2), "train_seconds": round(time.monotonic() - loaded, 2)},
        peak_memory_bytes=peak_memory_bytes(),
    )
    print(f"adapter     {run.adapter}")


def _finish(run: RunFolder, **fields: Any) -> None:
    if _IS_MAIN:
        run.update(ended=now(), **fields)


def _refuse_other_recipe(recipe: Recipe, run: RunFolder) -> None:
    if not run.recipe.is_file():
        raise RunError(f"{run.path} holds no run that could be resumed.", hint="Leave out --resume.")
    if (saved := load_recipe(run.recipe)) != recipe:
        raise RunError(
            f"The recipe differs from that of {run.path} in {', '.join(differences(saved, recipe))}, "
            "so the run cannot be resumed.",
            hint="Resume with the same recipe and overrides, or start anew with --overwrite or --output-dir.",
        )


def make_plan(before: Preflight) -> Plan:
    """Resolve every `auto` of the recipe's training section for this device."""
    recipe, training = before.recipe, before.recipe.training
    checkpointing = DEVICE == "cuda" if training.gradient_checkpointing == "auto" else training.gradient_checkpointing
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % processes:
        raise TrainingError(f"training.batch_size {training.batch_size} is no multiple of {processes} processes.")
    wanted = training.micro_batch_size
    micro = _affordable_rows(before, processes, checkpointing) if wanted == "auto" else wanted
    micro = min(micro, training.batch_size // processes)
    steps_per_epoch = math.ceil(len(before.train_rows) / training.batch_size)
    optimizer = "adamw_8bit" if DEVICE == "cuda" else "adamw_torch_fused"
    return Plan(
        micro_batch_size=micro,
        accumulation=training.batch_size // processes // micro,
        processes=processes,
        steps=training.max_steps or math.ceil(steps_per_epoch * recipe.training.epochs),
        gradient_checkpointing=checkpointing,
        optimizer=optimizer if training.optimizer == "auto" else training.optimizer,
    )


def _affordable_rows(before: Preflight, processes: int, checkpointing: bool) -> int:
    config = model_config(before.folder)
    per_token = activation_bytes_per_token(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        item_bytes=before.precision.dtype.itemsize,
        checkpointing=checkpointing,
    )
    free = _device_memory_bytes() - before.weight_bytes
    return choose_micro_batch(before.recipe.training.batch_size, processes, before.tokens.longest, per_token, free)


def _device_memory_bytes() -> int:
    """All of it, not what is free: the same recipe on the same machine makes the same micro batches."""
    if DEVICE == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return psutil.virtual_memory().total


def make_trainer(before: Preflight, plan: Plan, model: Any, checkpoints: Path) -> SFTTrainer:
    """TRL's SFTTrainer on rows that are tokenised already, saving into `checkpoints`."""
    recipe, training = before.recipe, before.recipe.training
    rows = Dataset.from_list([training_row(row, training.loss_on) for row in before.train_rows])
    tokenizer = before.encoder.tokenizer
    in_bf16, in_fp16 = before.precision.name == "bfloat16", before.precision.name == "float16"
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        warmup_steps=math.ceil(training.warmup_ratio * plan.steps),
        lr_scheduler_type=training.scheduler,
        weight_decay=training.weight_decay,
        optim=plan.optimizer,
        bf16=in_bf16,
        fp16=in_fp16,
        use_cpu=DEVICE == "cpu",
        gradient_checkpointing=plan.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.save_steps,
        save_total_limit=training.save_total_limit,
        report_to=training.report_to,
        seed=recipe.seed,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True,
    )
    with quiet():
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=PaddedCollator(tokenizer.pad_token_id or 0),
            processing_class=tokenizer,
            callbacks=[Progress(), StopOnNonFinite()],
        )
    trainer.remove_callback(PrinterCallback)
    if (trainer.args.bf16, trainer.args.fp16) != (in_bf16, in_fp16):
        raise TrainingError(
            f"The trainer would compute in another type than model.dtype, which resolves to {before.precision.name}.",
            hint="Set model.dtype to auto.",
        )
    return trainer


def _check_trainable(model: Any, before: Preflight) -> None:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable != before.parameters.trainable:
        raise TrainingError(
            f"{trainable:,} parameters would be trained, but the recipe's adapter has {before.parameters.trainable:,}."
        )


def _newest_checkpoint(run: RunFolder) -> Path | None:
    checkpoints = [path for path in run.checkpoints.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _begin(run: RunFolder, before: Preflight, plan: Plan, *, overwrite: bool, resume: bool) -> None:
    if not _IS_MAIN:
        return
    record = {
        "versions": package_versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
        "seed": before.recipe.seed,
        **before.record(),
        "batching": {"name": "padded", "reason": "rows are padded to the longest of their micro batch"},
        "micro_batch_size": plan.micro_batch_size,
        "accumulation": plan.accumulation,
        "processes": plan.processes,
        "steps": plan.steps,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "optimizer": plan.optimizer,
    }
    if resume:
        run.update(status="running", resumed=now(), **record)
    else:
        run.begin(record, replace=overwrite)
        write_text(run.recipe, dump_recipe(before.recipe))


def save_adapter(model: Any, before: Preflight, run: RunFolder) -> None:
    """Write the adapter and the tokenizer, with the recipe's chat template, as the run's result."""
    model.peft_config["default"].base_model_name_or_path = before.recipe.model.name
    with atomic_path(run.adapter) as partial:
        # Left to itself, PEFT asks the hub whether the vocabulary has grown.
        model.save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        before.encoder.tokenizer.save_pretrained(str(partial))


def peak_memory_bytes() -> int:
    """The most memory this process has held: on the GPU where there is one, else resident."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
