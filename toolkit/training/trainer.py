"""Trainers that accumulate micro-batches of any number and size within one optimizer step."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset

from toolkit.batching.collators import MicroBatch, NumberedCollator, number_rows
from toolkit.batching.sampling import RowOrder
from toolkit.errors import TrainingError
from toolkit.models.backend import DEVICE, PrinterCallback, SFTConfig, SFTTrainer, keep_float32, quiet
from toolkit.planning.job import TrainingJob
from toolkit.runs.run_folder import RunFolder
from toolkit.training.atomic_checkpoints import AtomicCheckpointMixin
from toolkit.training.callbacks import EpochOrder, Progress
from toolkit.training.divergence import DivergenceGuard
from toolkit.training.objective import summed_loss
from toolkit.training.trackers import TRACKERS, TrackerCallback
from toolkit.training.validation import StepChoice
from toolkit.utils.memory_errors import memory_errors


def step_errors() -> AbstractContextManager[None]:
    """Turn running out of memory during a training step into a DeviceMemoryError."""
    return memory_errors(
        "Out of memory during a training step.",
        hint="Lower training.batch_tokens (training.micro_batch_size for padded batches), "
        "or set training.gradient_checkpointing: true or model.load_in_4bit: true.",
    )


class MicroBatchAccumulationMixin(AtomicCheckpointMixin):
    """Gradient accumulation over the micro-batches of one optimizer step, for transformers' trainers.

    The rows of a step are split by the number of tree nodes they need, so the number of micro-batches varies from step
    to step, while `gradient_accumulation_steps` is fixed for a run. The trainer therefore counts each optimizer step as
    one batch (see `batching.collators`), and `training_step` accumulates its micro-batches.

    List the mixin before the trainer among the bases: it overrides the trainer's methods.
    """

    row_order: RowOrder
    divergence_guard: DivergenceGuard
    _prepare_inputs: Callable[[Any], Any]

    def _get_train_sampler(self, *_: Any) -> RowOrder:
        return self.row_order

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run the forward and backward passes of one optimizer step.

        Returns:
            This process's share of the mean loss, multiplied by the number of processes. The trainer logs the mean over
            all processes, which is the mean loss of the step.
        """
        model.train()
        step = self._prepare_inputs(inputs)
        scaler = self.accelerator.scaler
        self.divergence_guard.begin_step(step["rows"], scaler.get_scale() if scaler is not None else None)
        predictions, tokens = self.accelerator.reduce(torch.stack([step["predictions"], step["tokens"].float()]), "sum")
        if not predictions:
            self._stop(
                TrainingError("No token of this step contributes to the loss.", hint="Check the answers of these rows.")
            )
        self.state.num_input_tokens_seen += int(tokens)
        loss = torch.zeros((), device=self.args.device)
        for number, micro_batch in enumerate(step["micro_batches"], 1):
            is_last = number == len(step["micro_batches"])
            # Processes can have different numbers of micro-batches, so DDP must all-reduce gradients only once per
            # step, in the last backward pass. With one all-reduce per micro-batch, a process with more of them would
            # wait for the others forever.
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                # Averaging the means of micro-batches would weight predictions in small micro-batches more. Losses are
                # summed and divided by the predictions of the whole step, on all processes, so each counts the same.
                # DDP averages gradients over processes, and the factor num_processes turns that mean into a sum.
                loss_share = (
                    self._checked_loss(model, micro_batch) / predictions.squeeze() * self.accelerator.num_processes
                )
                # accelerator.backward, unlike loss.backward, applies the loss scale of fp16.
                self.accelerator.backward(loss_share)
            loss += loss_share.detach()
        return loss

    def _checked_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        try:
            return self.summed_loss(model, micro_batch)
        except TrainingError as error:
            self._stop(error)

    def _stop(self, error: TrainingError) -> NoReturn:
        learning_rate = self.lr_scheduler.get_last_lr()[0]
        # global_step counts finished steps, so the step that failed is the next one.
        self.divergence_guard.stop(self.state.global_step + 1, str(error), error.hint, learning_rate=learning_rate)

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the loss of a micro-batch, summed over its predictions.

        Raises:
            TrainingError: If the model's logits cannot be trained on.
        """
        raise NotImplementedError

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the tokens of all rows so far to the log; a token that rows share in a tree counts once per row."""
        super().log({**logs, "num_tokens": self.state.num_input_tokens_seen}, *rest)  # type: ignore[misc]


class ClassifierTrainer(MicroBatchAccumulationMixin, SFTTrainer):
    """TRL's trainer for a decoder, on padded batches or prefix trees."""

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed loss of a micro-batch, see `training.objective.summed_loss`."""
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()
        return summed_loss(model, head, micro_batch)


def shared_arguments(job: TrainingJob, checkpoints: Path) -> dict[str, Any]:
    """Return the arguments for transformers' TrainingArguments that decoders and encoders share."""
    plan, precision, recipe, training = job.plan, job.preflight.precision, job.recipe, job.recipe.training
    return {
        "output_dir": str(checkpoints),
        # One batch is one optimizer step, see MicroBatchAccumulationMixin.
        "per_device_train_batch_size": job.rows_per_process,
        "gradient_accumulation_steps": 1,
        # With several processes, accelerate would fill up an incomplete last batch with the epoch's first rows.
        "dataloader_drop_last": plan.processes > 1,
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
        # The filter replaces NaN and inf by earlier losses, and DivergenceGuard would not see them.
        "logging_nan_inf_filter": False,
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
        "run_name": checkpoints.parent.resolve().name,
        "report_to": "none" if training.report_to in TRACKERS else training.report_to,
        "seed": recipe.seed,
        "remove_unused_columns": False,  # the collators read columns that are not arguments of the model's forward
        "disable_tqdm": True,  # see callbacks.Progress
        "ddp_find_unused_parameters": False,
    }


def make_trainer(job: TrainingJob, model: Any, checkpoints: Path) -> ClassifierTrainer:
    """Return TRL's trainer for the job's encoded rows.

    Args:
        job: The rows and the plan.
        model: The base model with its adapter.
        checkpoints: The folder for checkpoints.

    Raises:
        TrainingError: If the trainer would not compute in the recipe's data type.
    """
    rows = Dataset.from_list(number_rows(job.training_rows()))
    arguments = SFTConfig(
        **shared_arguments(job, checkpoints),
        # Rows are encoded and shortened already, by `prompts`. TRL must neither tokenize nor truncate them again.
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with quiet(), keep_float32(job.preflight.precision.name == "float32"):
        trainer = ClassifierTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(job.collator()),
            processing_class=job.preflight.row_tokenizer.tokenizer,
            callbacks=[Progress()],
        )
    configure_trainer(trainer, job, checkpoints)
    return trainer


def configure_trainer(trainer: Any, job: TrainingJob, checkpoints: Path) -> None:
    """Set a trainer's row order and callbacks, and check its data type.

    Raises:
        TrainingError: If the trainer would not compute in the recipe's data type.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.row_order = job.row_order()
    trainer.add_callback(EpochOrder(trainer.row_order))
    ids = [row.id for row in job.preflight.splits.train]
    compares_labels = job.recipe.model.kind == "encoder" or job.recipe.training.objective == "labels"
    trainer.divergence_guard = DivergenceGuard(
        checkpoints.parent / "bad_step.json", ids, stops_at_zero=not compares_labels
    )
    trainer.add_callback(trainer.divergence_guard)
    if (tracker := job.recipe.training.report_to) in TRACKERS:
        is_complete = partial(StepChoice.of(job.recipe).is_complete, plan=job.plan)
        trainer.add_callback(TrackerCallback(tracker, RunFolder(checkpoints.parent), is_complete))
    name = job.preflight.precision.name
    if (trainer.args.bf16, trainer.args.fp16) != (name == "bfloat16", name == "float16"):
        raise TrainingError(
            f"model.dtype resolves to {name}, but the trainer would compute in a different data type.",
            hint="Set model.dtype to auto.",
        )
