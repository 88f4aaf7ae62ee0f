"""The steps of training that depend on the kind of model: loading it and making its trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.models.backend import DEVICE
from toolkit.models.loading import attach_lora, load_base
from toolkit.planning.heap import return_freed_blocks
from toolkit.planning.job import TrainingJob
from toolkit.recipe.model_kind import ModelKind
from toolkit.training.encoder_trainer import load_encoder_for_training, make_encoder_trainer
from toolkit.training.trainer import make_trainer


@dataclass(frozen=True)
class TrainingBackend:
    """The functions that load one kind of model for training and make its trainer."""

    load: Callable[[TrainingJob], Any]
    make_trainer: Callable[[TrainingJob, Any, Path], Any]


def _limit_heap(job: TrainingJob) -> None:
    if job.plan.gradient_checkpointing and DEVICE == "cpu":
        return_freed_blocks()


def _load_encoder(job: TrainingJob) -> Any:
    _limit_heap(job)
    return load_encoder_for_training(job)


def _load_decoder(job: TrainingJob) -> Any:
    preflight, recipe, checkpointing = job.preflight, job.recipe, job.plan.gradient_checkpointing
    _limit_heap(job)
    model = load_base(preflight.folder, recipe, preflight.precision, gradient_checkpointing=checkpointing)
    return attach_lora(model, recipe.decoder_lora, seed=recipe.seed, gradient_checkpointing=checkpointing)


TRAINING_BACKENDS: dict[ModelKind, TrainingBackend] = {
    "decoder": TrainingBackend(_load_decoder, make_trainer),
    "encoder": TrainingBackend(_load_encoder, make_encoder_trainer),
}
