"""A trainer's checkpoints: whole or not there, and all that the next step depends on, exactly.

transformers writes a checkpoint file by file under its final name, pickles half of it, and lets PEFT ask the hub about
the base model's vocabulary each time; so saving and loading are done here.
"""

import json
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from toolkit.models.backend import TrainerState
from toolkit.training.checkpoint_state import (
    load_optimizer,
    load_trained,
    random_states,
    save_trained,
    save_tree,
    set_random_states,
)
from toolkit.training.checkpoints import checkpoint_folder, keep_newest, new_checkpoint

_STATE = "trainer_state.json"  # transformers reads it by this name


class AtomicCheckpointMixin:
    """Stands before transformers' Trainer, whose saving and loading it replaces."""

    accelerator: Any
    args: Any
    lr_scheduler: Any
    model: Any
    optimizer: Any
    state: Any

    def _save_checkpoint(self, *_: Any) -> None:
        states = gather_object([random_states()])
        if not self.args.should_save:
            return
        checkpoints, scaler = Path(self.args.output_dir), self.accelerator.scaler
        schedule = {"scheduler": self.lr_scheduler.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        with new_checkpoint(checkpoint_folder(checkpoints, self.state.global_step)) as folder:
            save_trained(folder / "adapter.safetensors", self.model)
            save_tree(folder / "optimizer", self.optimizer.state_dict())
            (folder / "schedule.json").write_text(json.dumps(schedule), encoding="utf-8")
            (folder / "random.json").write_text(json.dumps(states), encoding="utf-8")
            self.state.save_to_json(str(folder / _STATE))
        keep_newest(checkpoints, self.args.save_total_limit)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *_: Any) -> None:
        load_trained(Path(resume_from_checkpoint) / "adapter.safetensors", self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(Path(checkpoint) / "optimizer", self.optimizer)
            self.lr_scheduler.load_state_dict(_read_json(checkpoint, "schedule.json")["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_read_json(checkpoint, "schedule.json")["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_states(_read_json(checkpoint, "random.json")[self.args.process_index])

    def restore(self, checkpoint: Path) -> None:
        """Take weights and log of a run's last step, where `train` would make one step more."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / _STATE))


def _read_json(checkpoint: str, name: str) -> Any:
    return json.loads((Path(checkpoint) / name).read_bytes())
