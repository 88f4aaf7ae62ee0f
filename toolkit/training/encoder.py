"""Training an encoder with a classification head: the same plan, steps and record as a decoder's, another loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from toolkit.batching.collators import NumberedCollator, Part, numbered
from toolkit.model.backend import DataCollatorWithPadding, Trainer, TrainingArguments, quiet
from toolkit.model.encoder import attach_encoder_lora, load_encoder
from toolkit.preflight import Preflight
from toolkit.training.callbacks import Progress
from toolkit.training.objective import summed_label_loss
from toolkit.training.plan import Batching, Plan, make_plan
from toolkit.training.trainer import StepInParts, complete, shared_arguments

_REASON = "an encoder reads in both directions, so rows share no beginning that could be computed once"


def plan_encoder(before: Preflight) -> Plan:
    """A decoder's plan, but always padded; see `make_plan` for what is refused."""
    return make_plan(before, lambda *_: Batching("padded", _REASON))


def load_for_training(before: Preflight, plan: Plan) -> Any:
    """The encoder with a new head and a new adapter."""
    model = load_encoder(before.folder, before.recipe, before.precision)
    return attach_encoder_lora(model, before.recipe.lora, seed=before.recipe.seed)


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


class EncoderTrainer(StepInParts, Trainer):
    """Transformers' trainer on padded sentence pairs."""

    def summed_loss(self, model: Any, part: Part) -> torch.Tensor:
        """See `training.objective`."""
        return summed_label_loss(model, part)


def make_encoder_trainer(before: Preflight, plan: Plan, model: Any, checkpoints: Path) -> EncoderTrainer:
    """The trainer on rows that are tokenised already, saving into `checkpoints`.

    Raises:
        TrainingError: it would compute in another type than the recipe asks for.
    """
    rows = Dataset.from_list(numbered({**row.inputs(), "label": row.label} for row in before.train_rows))
    arguments = TrainingArguments(
        **shared_arguments(before, plan, checkpoints),
        # Reentrant checkpoints lose the gradient where, as here, the embeddings are frozen.
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    pad = DataCollatorWithPadding(before.encoder.tokenizer)
    with quiet():
        trainer = EncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=NumberedCollator(PairCollator(pad, plan.micro_batch_size)),
            processing_class=before.encoder.tokenizer,
            callbacks=[Progress()],
        )
    complete(trainer, before, plan, checkpoints)
    return trainer
