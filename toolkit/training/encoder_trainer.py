"""Training an encoder with a classification head: the same plan, steps and record as a decoder's, another loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from toolkit.batching.collators import MicroBatch, NumberedCollator, numbered
from toolkit.models.backend import DataCollatorWithPadding, Trainer, TrainingArguments, quiet
from toolkit.models.encoder import attach_encoder_lora, load_encoder
from toolkit.planning.job import TrainingJob
from toolkit.training.callbacks import Progress
from toolkit.training.objective import summed_label_loss
from toolkit.training.trainer import MicroBatchAccumulationMixin, configure_trainer, shared_arguments


def load_encoder_for_training(job: TrainingJob) -> Any:
    """Load the encoder with a new head and a new adapter."""
    preflight = job.preflight
    model = load_encoder(preflight.folder, preflight.recipe, preflight.precision)
    return attach_encoder_lora(model, preflight.recipe.lora, seed=preflight.recipe.seed)


@dataclass(frozen=True)
class PairCollator:
    """Pads the rows of an optimiser step, part by part.

    Args:
        pad: pads rows of equal keys to the longest one, e.g. transformers' DataCollatorWithPadding.
        micro_batch_size: rows of a part.
    """

    pad: Any
    micro_batch_size: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate the rows of one optimiser step.

        Returns:
            `parts`, each with what the model reads [rows, longest] and `labels` [rows]; `trained` [1], the rows;
            `tokens` [1], the tokens of all rows.
        """
        starts = range(0, len(rows), self.micro_batch_size)
        return {
            "parts": [dict(self.pad(list(rows[start : start + self.micro_batch_size]))) for start in starts],
            "trained": torch.tensor([float(len(rows))]),
            "tokens": torch.tensor([sum(len(row["input_ids"]) for row in rows)]),
        }


class EncoderTrainer(MicroBatchAccumulationMixin, Trainer):
    """Transformers' trainer on padded sentence pairs."""

    def summed_loss(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """See `training.objective`."""
        return summed_label_loss(model, micro_batch)


def make_encoder_trainer(job: TrainingJob, model: Any, checkpoints: Path) -> EncoderTrainer:
    """The trainer on rows that are tokenised already, saving into `checkpoints`.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    rows = Dataset.from_list(numbered({**row.inputs(), "label": row.label} for row in job.preflight.train_rows))
    arguments = TrainingArguments(
        **shared_arguments(job, checkpoints),
        # Reentrant checkpoints lose the gradient where, as here, the embeddings are frozen.
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    pad = DataCollatorWithPadding(job.preflight.encoder.tokenizer)
    with quiet():
        trainer = EncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(PairCollator(pad, job.plan.micro_batch_size)),
            processing_class=job.preflight.encoder.tokenizer,
            callbacks=[Progress()],
        )
    configure_trainer(trainer, job, checkpoints)
    return trainer
