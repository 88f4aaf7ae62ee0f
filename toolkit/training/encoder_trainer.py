"""Training of an encoder with a classification head; apart from the loss, it works like training of a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from toolkit.batching.collators import MicroBatch, NumberedCollator, number_rows
from toolkit.batching.sampling import row_length_multiple
from toolkit.models.backend import DataCollatorWithPadding, Trainer, TrainingArguments, quiet
from toolkit.models.encoder import attach_encoder_lora, load_encoder
from toolkit.planning.job import TrainingJob
from toolkit.training.callbacks import Progress
from toolkit.training.objective import summed_label_loss
from toolkit.training.trainer import MicroBatchAccumulationMixin, configure_trainer, shared_arguments


def load_encoder_for_training(job: TrainingJob) -> Any:
    """Load the encoder with a new classification head and, unless all weights are trained, a new adapter."""
    preflight, recipe = job.preflight, job.recipe
    model = load_encoder(preflight.folder, recipe, preflight.precision)
    return model if recipe.lora is None else attach_encoder_lora(model, recipe.lora, seed=recipe.seed)


@dataclass(frozen=True)
class PairCollator:
    """A collator that pads encoded sentence pairs, one micro-batch at a time.

    Args:
        pad: A function that pads rows to the longest one, e.g. transformers' DataCollatorWithPadding.
        micro_batch_size: The rows of a micro-batch.
    """

    pad: Any
    micro_batch_size: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate the rows of one optimizer step.

        Returns:
            `micro_batches`, each with the model's inputs [rows, longest] and `labels`, see
            `training.objective.summed_label_loss`; `predictions` [1], the number of rows, or their total weight;
            `tokens` [1], the tokens of all rows.
        """
        starts = range(0, len(rows), self.micro_batch_size)
        # A row has the index of its label, or a list with the weight of each label.
        weights = [sum(row["label"]) if isinstance(row.get("label"), list) else 1.0 for row in rows]
        return {
            "micro_batches": [dict(self.pad(list(rows[start : start + self.micro_batch_size]))) for start in starts],
            "predictions": torch.tensor([sum(weights)]),
            "tokens": torch.tensor([sum(len(row["input_ids"]) for row in rows)]),
        }


class EncoderTrainer(MicroBatchAccumulationMixin, Trainer):
    """Transformers' trainer for an encoder, on padded batches."""

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed loss of a micro-batch, see `training.objective.summed_label_loss`."""
        return summed_label_loss(model, micro_batch)


def make_encoder_trainer(job: TrainingJob, model: Any, checkpoints: Path) -> EncoderTrainer:
    """Return the trainer for the job's encoded rows.

    Args:
        job: The rows and the plan.
        model: The encoder with its head and, unless all weights are trained, its adapter.
        checkpoints: The folder for checkpoints.

    Raises:
        TrainingError: If the trainer would not compute in the recipe's data type.
    """
    encoded_rows, weights = job.preflight.train_rows, job.label_weights
    rows = Dataset.from_list(
        number_rows(
            {**row.inputs(), "label": weights[i] if weights else row.label} for i, row in enumerate(encoded_rows)
        )
    )
    arguments = TrainingArguments(
        **shared_arguments(job, checkpoints),
        # Reentrant checkpointing gives no gradient unless an input of the checkpointed block requires one, and the
        # output of frozen embeddings does not.
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    multiple = row_length_multiple(*job.device_and_dtype_bytes, job.recipe.model.max_seq_length)
    pad = DataCollatorWithPadding(job.preflight.row_tokenizer.tokenizer, pad_to_multiple_of=multiple)
    with quiet():
        trainer = EncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(PairCollator(pad, job.plan.micro_batch_size)),
            processing_class=job.preflight.row_tokenizer.tokenizer,
            callbacks=[Progress()],
        )
    configure_trainer(trainer, job, checkpoints)
    return trainer
