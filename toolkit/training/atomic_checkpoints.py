"""Saving and loading of a trainer's checkpoints: atomic, without pickle, and sufficient for a bit-exact resume.

This replaces what transformers does. Transformers writes a checkpoint file by file under its final name, pickles the
optimizer and the random number generators, and lets PEFT ask the Hub about the base model's vocabulary at each save.
"""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from toolkit.models.backend import TrainerState
from toolkit.training.checkpoint_state import (
    capture_rng_state,
    load_optimizer,
    load_trainable,
    restore_rng_state,
    save_pytree,
    save_trainable,
)
from toolkit.training.checkpoints import NeededStep, checkpoint_folder, keep_newest, needs_no_other, new_checkpoint

STATE_FILE = "trainer_state.json"  # Trainer.train reads the step and the log history from the file of this name


class AtomicCheckpointMixin:
    """Atomic checkpoints for transformers' Trainer; list this class before it among the bases."""

    accelerator: Any
    args: Any
    lr_scheduler: Any
    model: Any
    optimizer: Any
    state: Any
    needed_step: NeededStep = staticmethod(needs_no_other)
    """The step whose checkpoint must be kept along with a checkpoint."""

    def _save_checkpoint(self, *_: Any) -> None:
        # Each process draws its own dropout masks, so the states of all of them are saved. Gathering is a collective
        # operation: every process must take part in it before all but the main one return.
        rng_states = gather_object([capture_rng_state()])
        if not self.args.should_save:
            return
        checkpoints, scaler = Path(self.args.output_dir), self.accelerator.scaler
        # Weights are not enough for a bit-exact resume. The next step also depends on the optimizer's moments, the
        # learning-rate schedule, the loss scale of fp16, the random number generators, and the step number, from which
        # the trainer computes how many batches of the epoch to skip.
        schedule = {"scheduler": self.lr_scheduler.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        with new_checkpoint(checkpoint_folder(checkpoints, self.state.global_step)) as folder:
            save_trainable(folder / "adapter.safetensors", self.model)
            save_pytree(folder / "optimizer", self.optimizer.state_dict())
            (folder / "schedule.json").write_text(json.dumps(schedule), encoding="utf-8")
            (folder / "random.json").write_text(json.dumps(rng_states), encoding="utf-8")
            self.state.save_to_json(str(folder / STATE_FILE))
        # Older checkpoints are removed only now, when the new one is on the disk under its final name.
        keep_newest(checkpoints, self.args.save_total_limit, self.needed_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *_: Any) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    def load_weights(self, checkpoint: Path) -> None:
        """Load the trained weights of a checkpoint into the model."""
        load_trainable(checkpoint / "adapter.safetensors", self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(Path(checkpoint) / "optimizer", self.optimizer)
            self.lr_scheduler.load_state_dict(_read_json(checkpoint, "schedule.json")["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_read_json(checkpoint, "schedule.json")["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_rng_state(_read_json(checkpoint, "random.json")[self.args.process_index])

    def restore(self, checkpoint: Path) -> None:
        """Load the weights and the log of the last step; `train` would run one more step before it stops."""
        self.load_weights(checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))


def _read_json(checkpoint: str, name: str) -> Any:
    return json.loads((Path(checkpoint) / name).read_bytes())
