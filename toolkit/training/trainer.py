"""A trainer taught three things: the order of rows, a step in parts of any number and size, and its loss."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset

from toolkit.batching.collators import MicroBatch, NumberedCollator, numbered, training_row
from toolkit.batching.sampling import RowOrder
from toolkit.errors import TrainingError
from toolkit.models.backend import DEVICE, PrinterCallback, SFTConfig, SFTTrainer, quiet
from toolkit.planning.job import TrainingJob
from toolkit.training.atomic_checkpoints import AtomicCheckpointMixin
from toolkit.training.callbacks import EpochOrder, Progress
from toolkit.training.divergence import DivergenceGuard
from toolkit.training.objective import summed_loss
from toolkit.utils.memory_errors import memory_errors


def step_errors() -> AbstractContextManager[None]:
    """Return `memory_errors` for training steps."""
    return memory_errors(
        "The device's memory does not hold a training step.",
        hint="Lower training.batch_tokens (training.micro_batch_size where rows are padded), "
        "or set training.gradient_checkpointing: true, or model.load_in_4bit: true.",
    )


class MicroBatchAccumulationMixin(AtomicCheckpointMixin):
    """What a trainer needs for batches that hold a whole optimiser step, see `batching.collators`; it stands first.

    A step has as many parts as its nodes need, which no fixed `gradient_accumulation_steps` could say; so the trainer
    counts one batch per step, and the parts are accumulated here.
    """

    row_order: RowOrder
    divergence: DivergenceGuard
    _prepare_inputs: Callable[[Any], Any]

    def _get_train_sampler(self, *_: Any) -> RowOrder:
        return self.row_order

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one optimiser step.

        Each prediction weighs the same in the whole batch, over all parts and processes.

        Returns:
            This process's share of the mean loss, times the number of processes, so that their mean is the loss.
        """
        model.train()
        step = self._prepare_inputs(inputs)
        scaler = self.accelerator.scaler
        self.divergence.begin_step(step["rows"], scaler.get_scale() if scaler is not None else None)
        trained, tokens = self.accelerator.reduce(torch.stack([step["trained"], step["tokens"].float()]), "sum")
        if not trained:
            self._stop(TrainingError("No token of its rows is trained.", hint="Look at the answers of these rows."))
        self.state.num_input_tokens_seen += int(tokens)
        loss = torch.zeros((), device=self.args.device)
        for number, micro_batch in enumerate(step["parts"], 1):
            is_last = number == len(step["parts"])
            # Processes may have different numbers of parts: they meet once a step.
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                share = self._checked_loss(model, micro_batch) / trained.squeeze() * self.accelerator.num_processes
                self.accelerator.backward(share)
            loss += share.detach()
        return loss

    def _checked_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        try:
            return self.summed_loss(model, micro_batch)
        except TrainingError as error:
            self._stop(error)

    def _stop(self, error: TrainingError) -> NoReturn:
        rate = self.lr_scheduler.get_last_lr()[0]
        self.divergence.stop(self.state.global_step + 1, str(error), error.hint, learning_rate=rate)

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """The loss of a part, summed over its predictions; a TrainingError where it cannot be known."""
        raise NotImplementedError

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the tokens of all rows so far, counted as the rows have them, shared or not."""
        super().log({**logs, "num_tokens": self.state.num_input_tokens_seen}, *rest)  # type: ignore[misc]


class ClassifierTrainer(MicroBatchAccumulationMixin, SFTTrainer):
    """TRL's trainer on a decoder's rows, padded or in trees."""

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """See `training.objective`."""
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()
        return summed_loss(model, head, micro_batch)


def shared_arguments(job: TrainingJob, checkpoints: Path) -> dict[str, Any]:
    """What every trainer is told, in the words of transformers' TrainingArguments."""
    plan, precision, recipe, training = job.plan, job.preflight.precision, job.recipe, job.recipe.training
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": job.rows_per_process,  # a whole step: see the mixin
        "gradient_accumulation_steps": 1,
        "dataloader_drop_last": plan.processes > 1,  # accelerate would fill it with rows of the epoch's beginning
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "warmup_steps": math.ceil(training.warmup_ratio * plan.steps),
        "lr_scheduler_type": training.scheduler,
        "weight_decay": training.weight_decay,
        "optim": plan.optimizer,
        "bf16": precision.name == "bfloat16",
        "fp16": precision.name == "float16",
        "use_cpu": DEVICE == "cpu",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
        "report_to": training.report_to,
        "seed": recipe.seed,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
    }


def make_trainer(job: TrainingJob, model: Any, checkpoints: Path) -> ClassifierTrainer:
    """TRL's trainer on rows that are tokenised already, saving into `checkpoints`.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    rows = Dataset.from_list(numbered(training_row(row) for row in job.preflight.train_rows))
    arguments = SFTConfig(
        **shared_arguments(job, checkpoints),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with quiet():
        trainer = ClassifierTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(job.collator()),
            processing_class=job.preflight.encoder.tokenizer,
            callbacks=[Progress()],
        )
    configure_trainer(trainer, job, checkpoints)
    return trainer


def configure_trainer(trainer: Any, job: TrainingJob, checkpoints: Path) -> None:
    """Give a trainer its row order and its watch over numbers, and check its number format.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.row_order = job.row_order()
    trainer.add_callback(EpochOrder(trainer.row_order))
    ids = [row.id for row in job.preflight.splits.train]
    trainer.divergence = DivergenceGuard(checkpoints.parent / "bad_step.json", ids)
    trainer.add_callback(trainer.divergence)
    name = job.preflight.precision.name
    if (trainer.args.bf16, trainer.args.fp16) != (name == "bfloat16", name == "float16"):
        raise TrainingError(
            f"The trainer would compute in another type than model.dtype, which resolves to {name}.",
            hint="Set model.dtype to auto.",
        )
