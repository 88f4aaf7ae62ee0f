"""A trainer taught three things: the order of rows, a step in parts of any number and size, and its loss."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset

from toolkit.batching.collators import NumberedCollator, Part, numbered, training_row
from toolkit.batching.sampling import RowOrder
from toolkit.errors import TrainingError
from toolkit.model.backend import DEVICE, PrinterCallback, SFTConfig, SFTTrainer, quiet
from toolkit.preflight import Preflight
from toolkit.training.callbacks import EpochOrder, Progress
from toolkit.training.numbers import StopOnBadNumbers
from toolkit.training.objective import summed_loss
from toolkit.training.plan import Plan, row_order
from toolkit.training.whole_checkpoints import WholeCheckpoints


class StepInParts(WholeCheckpoints):
    """What a trainer needs for batches that hold a whole optimiser step, see `batching.collators`; it stands first.

    A step has as many parts as its nodes need, which no fixed `gradient_accumulation_steps` could say; so the trainer
    counts one batch per step, and the parts are accumulated here.
    """

    row_order: RowOrder
    numbers: StopOnBadNumbers
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
        self.numbers.begin_step(step["rows"], scaler.get_scale() if scaler is not None else None)
        trained, tokens = self.accelerator.reduce(torch.stack([step["trained"], step["tokens"].float()]), "sum")
        if not trained:
            self._stop(TrainingError("No token of its rows is trained.", hint="Look at the answers of these rows."))
        self.state.num_input_tokens_seen += int(tokens)
        loss = torch.zeros((), device=self.args.device)
        for number, part in enumerate(step["parts"], 1):
            is_last = number == len(step["parts"])
            # Processes may have different numbers of parts: they meet once a step.
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                share = self._checked_loss(model, part) / trained.squeeze() * self.accelerator.num_processes
                self.accelerator.backward(share)
            loss += share.detach()
        return loss

    def _checked_loss(self, model: Any, part: Part) -> torch.Tensor:
        try:
            return self.summed_loss(model, part)
        except TrainingError as error:
            self._stop(error)

    def _stop(self, error: TrainingError) -> NoReturn:
        rate = self.lr_scheduler.get_last_lr()[0]
        self.numbers.stop(self.state.global_step + 1, str(error), error.hint, learning_rate=rate)

    def summed_loss(self, model: Any, part: Part) -> torch.Tensor:
        """The loss of a part, summed over its predictions; a TrainingError where it cannot be known."""
        raise NotImplementedError

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the tokens of all rows so far, counted as the rows have them, shared or not."""
        super().log({**logs, "num_tokens": self.state.num_input_tokens_seen}, *rest)  # type: ignore[misc]


class ClassifierTrainer(StepInParts, SFTTrainer):
    """TRL's trainer on a decoder's rows, padded or in trees."""

    def summed_loss(self, model: Any, part: Part) -> torch.Tensor:
        """See `training.objective`."""
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()
        return summed_loss(model, head, part)


def shared_arguments(before: Preflight, plan: Plan, checkpoints: Path) -> dict[str, Any]:
    """What every trainer is told, in the words of transformers' TrainingArguments."""
    recipe, training = before.recipe, before.recipe.training
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": plan.batch_size // plan.processes,  # a whole step: see StepInParts
        "gradient_accumulation_steps": 1,
        "dataloader_drop_last": plan.processes > 1,  # accelerate would fill it with rows of the epoch's beginning
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "warmup_steps": math.ceil(training.warmup_ratio * plan.steps),
        "lr_scheduler_type": training.scheduler,
        "weight_decay": training.weight_decay,
        "optim": plan.optimizer,
        "bf16": before.precision.name == "bfloat16",
        "fp16": before.precision.name == "float16",
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


def make_trainer(before: Preflight, plan: Plan, model: Any, checkpoints: Path) -> ClassifierTrainer:
    """TRL's trainer on rows that are tokenised already, saving into `checkpoints`.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    rows = Dataset.from_list(numbered(training_row(row) for row in before.train_rows))
    arguments = SFTConfig(
        **shared_arguments(before, plan, checkpoints),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with quiet():
        trainer = ClassifierTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(plan.collator(before.recipe.training.loss_on)),
            processing_class=before.encoder.tokenizer,
            callbacks=[Progress()],
        )
    complete(trainer, before, plan, checkpoints)
    return trainer


def complete(trainer: Any, before: Preflight, plan: Plan, checkpoints: Path) -> None:
    """Give a trainer its row order and its watch over numbers, and check its number format.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.row_order = row_order(before, plan)
    trainer.add_callback(EpochOrder(trainer.row_order))
    trainer.numbers = StopOnBadNumbers(checkpoints.parent / "bad_step.json", [row.id for row in before.splits.train])
    trainer.add_callback(trainer.numbers)
    name = before.precision.name
    if (trainer.args.bf16, trainer.args.fp16) != (name == "bfloat16", name == "float16"):
        raise TrainingError(
            f"The trainer would compute in another type than model.dtype, which resolves to {name}.",
            hint="Set model.dtype to auto.",
        )
